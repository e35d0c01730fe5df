/* gemm.c: rates of matrix products at the shapes of a small transformer, the yardstick for the share a training step
 * reaches.
 *
 *     gemm [--threads N] [--seconds X]
 *
 * One line a product, GF/s (median); `cambium bench gemm` prints the same. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/kernels/kernels.h"

static const int64_t shapes[][3] = {{1024, 768, 768}, {1024, 768, 2048}, {1024, 2048, 768}, {1024, 288, 768},
                                    {1024, 8, 768},   {1024, 768, 8},    {8, 768, 1024},    {1, 768, 768}};

int main(int argc, char **argv)
{
    double seconds = 0.2;
    for (int i = 1; i + 1 < argc; i += 2)
        if (strcmp(argv[i], "--threads") == 0)
            cb_set_threads(atoi(argv[i + 1]));
        else if (strcmp(argv[i], "--seconds") == 0)
            seconds = atof(argv[i + 1]);
    printf("instruction set %s, %d threads\n%6s %6s %6s %5s %10s %10s %10s\n", cbk_isa(), cb_threads(), "m", "n", "k", "dtype", "NN", "NT",
           "TN");
    const cb_dtype dtypes[] = {CB_BF16, CB_F32};
    for (int t = 0; t < 2; t++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            const int64_t *d = shapes[s];
            printf("%6lld %6lld %6lld %5s", (long long)d[0], (long long)d[1], (long long)d[2], cb_dtype_name(dtypes[t]));
            for (int kind = 0; kind < 3; kind++)
                printf(" %10.1f", cbk_gemm_rate(dtypes[t], kind == 2, kind == 1, d[0], d[1], d[2], seconds));
            printf("\n");
        }
    if (!cb_ok())
        fprintf(stderr, "bench gemm: %s\n", cb_error_message());
    return cb_ok() ? 0 : 1;
}
