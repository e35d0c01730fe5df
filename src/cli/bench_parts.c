/* bench_parts.c: what benchmarks share: models of random weights on disk, so that a run maps them as it would a real one. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cambium/convert.h"
#include "cli/cli.h"

/* ---- models ---- */

const char *const cli_bench_shapes[] = {"15m", "125m", "1b", NULL};

/* Llama shapes with a vocabulary of 32000. */
const cli_bench_shape *cli_bench_shape_at(int index)
{
    static const cli_bench_shape shapes[] = {{288, 6, 6, 6, 768, true}, {768, 12, 12, 12, 2048, true}, {2048, 22, 32, 4, 5632, false}};
    return &shapes[index];
}

/* First those of CB_QUANTIZE_*, in their order, then types of GGUF. */
const char *const cli_bench_quantize[] = {"none", "int8", "int8-block", "nf4", "q8_0", "q6_k", "q5_k", "q5_0", "q4_k", "q4_0", NULL};
enum { FIRST_GGUF = CB_QUANTIZE_NF4 + 1 };

static bool write_config(const char *path, const cli_bench_shape *shape)
{
    cb_writer *w = cb_writer_open(path);
    bool ok =
        w && cb_writer_printf(w,
                              "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 32000, "
                              "\"hidden_size\": %d, \"num_hidden_layers\": %d, \"num_attention_heads\": %d, "
                              "\"num_key_value_heads\": %d, \"intermediate_size\": %d, \"max_position_embeddings\": 2048, "
                              "\"rms_norm_eps\": 1e-6, \"tie_word_embeddings\": %s, \"hidden_act\": \"silu\", "
                              "\"initializer_range\": 0.02, \"bos_token_id\": 1, \"eos_token_id\": 2}\n",
                              shape->width, shape->layers, shape->heads, shape->kv_heads, shape->hidden, shape->tied ? "true" : "false");
    if (ok)
        return cb_writer_commit(w);
    cb_writer_abort(w);
    return false;
}

static bool write_plain(const cli_bench_model *place, int shape, cb_dtype dtype)
{
    char *config = cb_path_join(place->plain, "shape.json");
    bool ok = config && cb_directory_make(place->plain) && write_config(config, cli_bench_shape_at(shape));
    cb_model *model = ok ? cb_model_create(config, 1, (cb_model_options){.dtype = CB_F32}) : NULL;
    ok = model && cb_model_save(model, place->plain, dtype);
    cb_model_free(model);
    cb_free(config);
    return ok;
}

static bool write_quantized(const cli_bench_model *place, int quantize)
{
    if (quantize >= FIRST_GGUF) {
        cb_convert_options options;
        bool ok = cb_options_init(cb_convert_option_table, &options) &&
                  cb_options_set(cb_convert_option_table, &options, "dtype", cli_bench_quantize[quantize]);
        options.to = CB_CONVERT_GGUF;
        options.verify = false;
        ok = ok && cb_convert(place->plain, place->quantized, &options, NULL);
        cb_options_free(cb_convert_option_table, &options);
        return ok;
    }
    /* 32: a divisor of every width */
    cb_merge_options options = {.quantize = quantize, .double_quant = true, .block_size = quantize == CB_QUANTIZE_INT8_BLOCK ? 32 : 0};
    cb_model *model = cb_model_load_with(place->plain, (cb_model_options){.dtype = CB_F32});
    bool ok = model && cb_merge_fold(model, NULL, 0, place->quantized, &options, NULL);
    cb_model_free(model);
    return ok;
}

/* Runs in another process, whose memory does not count as the benchmark's. */
static bool write_apart(const cli_bench_model *place, int shape, cb_dtype dtype, int quantize)
{
    int ends[2], status = 0;
    if (pipe(ends) != 0)
        return cb_fail(CB_ERR_IO, "no pipe can be made: %s", strerror(errno)) == CB_OK;
    pid_t child = fork();
    if (child == 0) {
        bool ok = write_plain(place, shape, dtype) && (quantize == CB_QUANTIZE_NONE || write_quantized(place, quantize));
        const char *message = cb_error_message();
        ssize_t written = ok ? 0 : write(ends[1], message, strlen(message));
        _exit(ok && written == 0 ? 0 : 1);
    }
    close(ends[1]);
    char message[512];
    ssize_t length = child > 0 ? read(ends[0], message, sizeof message - 1) : 0;
    close(ends[0]);
    bool ok = child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (!ok)
        cb_fail(CB_ERR_IO, "%s: the model cannot be made there: %.*s", place->directory, length > 0 ? (int)length : 0, message);
    return ok;
}

bool cli_bench_model_make(cli_bench_model *place, int shape, cb_dtype dtype, int quantize)
{
    const char *base = getenv("TMPDIR");
    place->directory = cb_format("%s/" CLI_PROGRAM "-bench-XXXXXX", base && *base ? base : "/tmp");
    if (!place->directory || !mkdtemp(place->directory))
        return cb_fail(CB_ERR_IO, "no temporary directory can be made (TMPDIR)") == CB_OK;
    place->plain = cb_path_join(place->directory, "plain");
    place->quantized = cb_path_join(place->directory, quantize >= FIRST_GGUF ? "quantized.gguf" : "quantized");
    place->path = quantize == CB_QUANTIZE_NONE ? place->plain : place->quantized;
    if (!place->plain || !place->quantized || !write_apart(place, shape, dtype, quantize))
        return false;
    return true;
}

static void remove_path(const char *path)
{
    cb_string_list names = {0};
    if (unlink(path) == 0 || errno == ENOENT)
        return;
    if (cb_directory_list(path, false, &names))
        for (size_t i = 0; i < names.count; i++) {
            char *inside = cb_path_join(path, names.items[i]);
            if (inside)
                unlink(inside);
            cb_free(inside);
        }
    cb_string_list_free(&names);
    rmdir(path);
}

void cli_bench_model_remove(cli_bench_model *place)
{
    char *const made[] = {place->plain, place->quantized, place->directory};
    for (size_t i = 0; i < sizeof made / sizeof *made; i++) {
        if (made[i])
            remove_path(made[i]);
        cb_free(made[i]);
    }
    *place = (cli_bench_model){0};
}
