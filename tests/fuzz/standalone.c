/* standalone.c: runs a target without libFuzzer, in any build: over the files that it is given and those of the directories
 * that it is given.  Options of libFuzzer (-runs=0) are passed over, so that both programs are called the same way. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cambium/core.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t runs;

static bool run_file(const char *path)
{
    size_t size;
    char *bytes = cb_file_read(path, SIZE_MAX / 2, &size);
    uint8_t *exact = bytes ? malloc(size ? size : 1) : NULL; /* without the NUL: a sanitizer sees a read past the end */
    if (!exact)
        return false;
    memcpy(exact, bytes, size);
    cb_free(bytes);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
    runs++;
    return true;
}

static bool run_directory(const char *path)
{
    cb_string_list names = {0};
    bool ok = cb_directory_list(path, true, &names);
    for (size_t i = 0; ok && i < names.count; i++) {
        char *file = cb_path_join(path, names.items[i]);
        ok = file && run_file(file);
        cb_free(file);
    }
    cb_string_list_free(&names);
    return ok;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] == '-')
            continue;
        if (!(cb_is_directory(argv[i]) ? run_directory(argv[i]) : run_file(argv[i]))) {
            fprintf(stderr, "%s\n", cb_error_message());
            return 1;
        }
    }
    printf("%zu inputs\n", runs);
    return runs == 0;
}
