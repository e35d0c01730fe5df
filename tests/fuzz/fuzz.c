/* fuzz.c: scratch files, the checks that hold for every reader, and LLVMFuzzerTestOneInput. */
#define _GNU_SOURCE /* nftw */
#include "fuzz.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char root[200];

/* ---- scratch files ---- */

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *walk)
{
    (void)st, (void)type, (void)walk;
    return remove(path);
}

static void remove_root(void)
{
    nftw(root, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static void require(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "fuzz: %s\n", what);
    abort();
}

static void make_root(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(root, sizeof root, "%s/cambium-fuzz-XXXXXX", base && *base ? base : "/tmp");
    require(mkdtemp(root), "no scratch directory; set TMPDIR");
    atexit(remove_root);
}

const char *fuzz_path(const char *name)
{
    enum { MOST = 128 };
    static struct {
        char *name, *path;
    } known[MOST];
    if (!*root)
        make_root();
    for (int i = 0; i < MOST; i++) {
        if (known[i].name && strcmp(known[i].name, name) == 0)
            return known[i].path;
        if (known[i].name)
            continue;
        known[i].name = strdup(name);
        require(known[i].name && asprintf(&known[i].path, "%s/%s", root, name) > 0, "no memory");
        char *parent = cb_path_parent(known[i].path);
        require(parent && cb_directory_make(parent), "cannot make a scratch directory");
        cb_free(parent);
        return known[i].path;
    }
    require(false, "too many scratch files");
    return NULL;
}

const char *fuzz_file(const char *name, const void *data, size_t size)
{
    const char *path = fuzz_path(name);
    FILE *file = fopen(path, "wb");
    require(file && fwrite(data, 1, size, file) == size && fclose(file) == 0, "cannot write a scratch file");
    return path;
}

const char *fuzz_link(const char *name, const char *source)
{
    const char *path = fuzz_path(name);
    char target[4096];
    snprintf(target, sizeof target, "%s/%s", CB_SOURCE_DIR, source);
    require(access(target, R_OK) == 0 && symlink(target, path) == 0, "cannot link a file of the source tree");
    return path;
}

/* ---- checks ---- */

bool fuzz_expect(bool ok)
{
    if (ok && !cb_ok())
        fprintf(stderr, "fuzz: the reader succeeded and left an error: %s\n", cb_error_message());
    if (!ok && (cb_ok() || !*cb_error_message()))
        fprintf(stderr, "fuzz: the reader failed and left no message\n");
    require(ok == cb_ok() && !*cb_error_message() == ok && !strchr(cb_error_message(), '\n'), "result and error disagree");
    cb_error_clear();
    return ok;
}

void fuzz_touch(const void *data, size_t size)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < size; i++)
        sum ^= ((const uint8_t *)data)[i];
    __asm__ volatile("" : : "r"(sum)); /* the sum is of use to nobody */
}

/* Five tokens, an image of the model's size or a small one, or series of two nodes where the model does not say how many. */
static cb_tensor *fuzz_input(const cb_model *model)
{
    static const int32_t ids[] = {1, 0, 2, 3, 1};
    cb_image_format format = cb_model_image_format(model);
    cb_series_format series = cb_model_series_format(model);
    if (series.context)
        return cb_full(CB_F32, 0.5, 1, series.context, series.nodes ? series.nodes : 2, series.channels);
    if (!format.channels)
        return cb_from(CB_I32, ids, 1, sizeof ids / sizeof *ids);
    return cb_full(CB_F32, 0.5, 1, format.channels, format.height ? format.height : 20, format.width ? format.width : 17);
}

bool fuzz_pass(cb_model *model)
{
    cb_scope *scope = cb_scope_open();
    bool ok = scope;
    cb_no_grad
    {
        cb_tensor *x = ok ? fuzz_input(model) : NULL;
        bool bare = cb_model_head_kind(model) == CB_HEAD_NONE;
        cb_context ctx = {.source = cb_model_decoder_start(model) < 0 ? NULL : x};
        if (x && cb_model_head_kind(model) == CB_HEAD_DENOISING) {
            ctx.timesteps = cb_full(CB_F32, 7, x->shape[0]);
            ctx.classes = cb_model_labels(model) ? cb_zeros(CB_I32, x->shape[0]) : NULL;
        }
        ok = x && (bare ? cb_model_hidden : cb_model_logits)(model, x, &ctx);
    }
    if (scope)
        cb_scope_close(scope);
    return ok;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Tables that are made at first use may stay; a second run of the same input must leave nothing. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t before = cb_memory().live_bytes;
    fuzz_target(data, size);
    cb_error_clear();
    uint64_t after = cb_memory().live_bytes;
    if (after > before) {
        fuzz_target(data, size);
        cb_error_clear();
        require(cb_memory().live_bytes <= after, "memory of the library was not freed");
    }
    return 0;
}
