/* views.h: other views of a batch of images: colours changed, turned a little, blurred, mirrored, with noise, as CoTTA's augmentation does it
 * (Wang et al. 2022, arXiv:2203.13591), which is one draw for a whole batch.  Images are numbers from 0 to 1, (N, C, H, W) row-major. */
#ifndef CB_IMAGES_VIEWS_H
#define CB_IMAGES_VIEWS_H

#include "cambium/core.h"

enum { CB_VIEW_BRIGHTNESS, CB_VIEW_CONTRAST, CB_VIEW_SATURATION, CB_VIEW_HUE, CB_VIEW_GAMMA, CB_VIEW_COLORS };

typedef struct cb_view {
    double color[CB_VIEW_COLORS]; /* factors, which are 1 where nothing changes; of hue a part of the circle, 0 */
    int order[CB_VIEW_COLORS];    /* in which they are changed */
    double angle;                 /* degrees */
    double shift[2], scale;       /* shift: pixels, across and down */
    double blur;                  /* standard deviation, over 5 x 5 pixels; 0: none */
    bool mirrored;
    double noise; /* standard deviation; 0: none */
} cb_view;

cb_view cb_view_same(void); /* leaves images as they are */
cb_view cb_view_draw(cb_rng *rng, int64_t height, int64_t width);
/* What lies outside of an image is its border.  `out` must not be `in`. */
bool cb_view_apply(const cb_view *view, cb_rng *noise, int64_t count, int64_t channels, int64_t height, int64_t width, const float *in,
                   float *out);

#endif
