/* bench.c: `cambium bench gemm`: how fast this machine multiplies. */
#include "cli/cli.h"
#include "kernels/kernels.h"

typedef struct gemm_settings {
    double seconds;
} gemm_settings;

static const cb_option gemm_table[] = {CB_OPT_FLOAT(gemm_settings, seconds, 0.2, 0.01, 60, "time for each product"), CB_OPT_END};
static const cli_group gemm_groups[] = {{"Measuring", gemm_table, 0}, {0}};

static const int64_t gemm_shapes[][3] = {{1024, 768, 768}, {1024, 768, 2048}, {1024, 2048, 768}, {1024, 288, 288}, {1024, 288, 768},
                                         {1024, 8, 768},   {1024, 768, 8},    {8, 768, 1024},    {1, 768, 2048}};
static const cb_dtype gemm_dtypes[] = {CB_BF16, CB_F32};

static bool gemm_run(cli_call *call, void *settings_)
{
    static const char *const kinds[] = {"NN", "NT", "TN"};
    const gemm_settings *s = settings_;
    cli_table table = {.columns = 7, .right = "rrrlrrr"};
    const char *const titles[] = {"m", "n", "k", "dtype", "NN GF/s", "NT GF/s", "TN GF/s"};
    for (int i = 0; i < 7; i++)
        cli_table_add(&table, "%s", titles[i]);
    json_t *rows = json_array();
    for (size_t t = 0; t < sizeof gemm_dtypes / sizeof *gemm_dtypes; t++)
        for (size_t i = 0; i < sizeof gemm_shapes / sizeof *gemm_shapes && cb_ok(); i++) {
            const int64_t *d = gemm_shapes[i];
            json_t *row = json_pack("{s:I, s:I, s:I, s:s}", "m", (json_int_t)d[0], "n", (json_int_t)d[1], "k", (json_int_t)d[2], "dtype",
                                    cb_dtype_name(gemm_dtypes[t]));
            for (int c = 0; c < 3; c++)
                cli_table_add(&table, "%lld", (long long)d[c]);
            cli_table_add(&table, "%s", cb_dtype_name(gemm_dtypes[t]));
            for (int k = 0; k < 3; k++) {
                double rate = cbk_gemm_rate(gemm_dtypes[t], k == 2, k == 1, d[0], d[1], d[2], s->seconds);
                json_object_set_new(row, kinds[k], cli_real(rate));
                cli_table_add(&table, "%.1f", rate);
            }
            json_array_append_new(rows, row);
            if (cb_interrupted())
                cb_fail(CB_ERR_INTERRUPTED, "interrupted");
        }
    if (call->common.json)
        cli_json(json_pack("{s:s, s:i, s:O}", "instruction_set", cbk_isa(), "threads", cb_threads(), "gflops", rows));
    else
        printf("instruction set %s, %d threads; GF/s, median\n", cbk_isa(), cb_threads());
    if (call->common.json)
        cb_string_list_free(&table.cells);
    else
        cli_table_print(&table);
    json_decref(rows);
    return cb_ok();
}

const cli_command cli_bench_gemm = {.name = "bench gemm",
                                    .summary = "rates of matrix products on this machine",
                                    .synopsis = "[options]",
                                    .description =
                                        "Products as they occur in small transformers. NN, NT and TN say which of the two operands is "
                                        "stored transposed.",
                                    .settings_size = sizeof(gemm_settings),
                                    .groups = gemm_groups,
                                    .examples = (const char *const[]){"cambium bench gemm --threads 2", NULL},
                                    .run = gemm_run};
