/* norm_f64.h: rows first..last-1 of the row kernels in f64, for gradient checks; the formulas are those of
 * cpu/norm.inc.h. */
#ifndef CB_KERNELS_NORM_F64_H
#define CB_KERNELS_NORM_F64_H

#include <stdbool.h>
#include <stdint.h>

void cbk_rms_norm_forward_f64(double *y, double *rstd, const double *x, const double *weight, int64_t first, int64_t last, int64_t c,
                              double eps);
void cbk_rms_norm_backward_f64(double *dx, bool accumulate, double *dweight, const double *dy, const double *x, const double *weight,
                               const double *rstd, int64_t n, int64_t c);
void cbk_layer_norm_forward_f64(double *y, double *mean, double *rstd, const double *x, const double *weight, const double *bias,
                                int64_t first, int64_t last, int64_t c, double eps);
void cbk_layer_norm_backward_f64(double *dx, bool accumulate, double *dweight, double *dbias, const double *dy, const double *x,
                                 const double *weight, const double *mean, const double *rstd, int64_t n, int64_t c);
void cbk_softmax_forward_f64(double *y, const double *x, int64_t first, int64_t last, int64_t k, bool log);
void cbk_softmax_backward_f64(double *dx, const double *dy, const double *y, int64_t first, int64_t last, int64_t k, bool log);

#endif
