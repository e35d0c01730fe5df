/* jpeg.c: JPEG by libjpeg-turbo.  Its errors leave by longjmp(): everything that must be given back is in one struct outside the function
 * that is left. */
#include "images/jpeg.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* after stdio.h, which it wants */
#include <jerror.h>
#include <jpeglib.h>

#include "images/images.h"

/* Scans of one progressive file: real ones have about ten, and each costs a pass over the whole image. */
enum { MOST_SCANS = 200, APP_EXIF = JPEG_APP0 + 1, MOST_MARKER = 0xFFFF };

typedef struct jpeg_errors {
    struct jpeg_error_mgr base; /* first: the library hands it back */
    jmp_buf escape;
    char message[JMSG_LENGTH_MAX];
} jpeg_errors;

typedef struct jpeg_reader {
    struct jpeg_decompress_struct jpeg; /* first, for progress */
    jpeg_errors errors;
    struct jpeg_source_mgr input;
    struct jpeg_progress_mgr progress;
    image_source *source;
    cb_image *image;
    uint8_t *inks; /* a row of CMYK */
    bool refused;  /* the error is recorded already */
} jpeg_reader;

static void leave(j_common_ptr jpeg)
{
    jpeg_errors *errors = (jpeg_errors *)jpeg->err;
    jpeg->err->format_message(jpeg, errors->message);
    longjmp(errors->escape, 1);
}

/* What can be decoded is, as by Pillow; a cut-off file comes to need_more(). */
static void pass_over(j_common_ptr jpeg, int level)
{
    (void)jpeg, (void)level;
}

static struct jpeg_error_mgr *errors_of(jpeg_errors *errors)
{
    jpeg_std_error(&errors->base);
    errors->base.error_exit = leave;
    errors->base.emit_message = pass_over;
    return &errors->base;
}

/* ---- the source: all of the file is there ---- */

static void nothing(j_decompress_ptr jpeg)
{
    (void)jpeg;
}

static boolean need_more(j_decompress_ptr jpeg)
{
    ERREXIT(jpeg, JERR_INPUT_EOF);
    return FALSE;
}

static void skip(j_decompress_ptr jpeg, long bytes)
{
    if (bytes <= 0)
        return;
    if ((size_t)bytes > jpeg->src->bytes_in_buffer)
        ERREXIT(jpeg, JERR_INPUT_EOF);
    jpeg->src->next_input_byte += bytes;
    jpeg->src->bytes_in_buffer -= (size_t)bytes;
}

static void count_scans(j_common_ptr jpeg)
{
    if (((j_decompress_ptr)jpeg)->input_scan_number > MOST_SCANS)
        ERREXIT(jpeg, JERR_BAD_PROGRESSION);
}

/* ---- reading ---- */

static void find_orientation(jpeg_reader *r)
{
    static const char mark[6] = "Exif\0"; /* and another NUL */
    for (jpeg_saved_marker_ptr m = r->jpeg.marker_list; m; m = m->next)
        if (m->marker == APP_EXIF && m->data_length > sizeof mark && memcmp(m->data, mark, sizeof mark) == 0) {
            r->source->orientation = cb_exif_orientation(m->data + sizeof mark, m->data_length - sizeof mark);
            return;
        }
}

static void refuse(jpeg_reader *r)
{
    r->refused = true;
    ERREXIT(&r->jpeg, JERR_OUT_OF_MEMORY);
}

/* Pillow takes every CMYK file to be inverted, as Adobe's programs write them. */
static void paint(const uint8_t *inks, size_t pixels, uint8_t *rgb)
{
    for (size_t i = 0; i < pixels; i++, inks += 4, rgb += 3) {
        const uint8_t cmyk[4] = {255 - inks[0], 255 - inks[1], 255 - inks[2], 255 - inks[3]};
        cb_cmyk_to_rgb(cmyk, rgb);
    }
}

static void read_rows(jpeg_reader *r)
{
    struct jpeg_decompress_struct *jpeg = &r->jpeg;
    int components = jpeg->num_components;
    jpeg->out_color_space = components == 1 ? JCS_GRAYSCALE : components == 4 ? JCS_CMYK : JCS_RGB;
    if (!cb_image_begin(r->source, r->image, jpeg->image_width, jpeg->image_height, components == 1 ? 1 : 3, 8))
        refuse(r);
    size_t width = jpeg->image_width, row = cb_image_bytes(r->image) / jpeg->image_height;
    r->inks = components == 4 ? cb_alloc(4 * width) : NULL;
    if (components == 4 && !r->inks)
        refuse(r);
    jpeg_start_decompress(jpeg);
    while (jpeg->output_scanline < jpeg->output_height) {
        uint8_t *to = r->image->pixels + jpeg->output_scanline * row, *line = r->inks ? r->inks : to;
        jpeg_read_scanlines(jpeg, &line, 1);
        if (r->inks)
            paint(r->inks, width, to);
    }
    jpeg_finish_decompress(jpeg);
}

static bool read_image(jpeg_reader *r)
{
    if (setjmp(r->errors.escape))
        return r->refused ? false : cb_image_damaged(r->source, "JPEG", "%s", r->errors.message);
    jpeg_create_decompress(&r->jpeg);
    r->jpeg.src = &r->input;
    r->jpeg.progress = &r->progress;
    if (r->source->options.exif_transpose)
        jpeg_save_markers(&r->jpeg, APP_EXIF, MOST_MARKER);
    jpeg_read_header(&r->jpeg, TRUE);
    find_orientation(r);
    read_rows(r);
    return true;
}

bool cb_jpeg_decode(image_source *s, cb_image *image)
{
    jpeg_reader r = {.source = s, .image = image};
    r.jpeg.err = errors_of(&r.errors);
    r.progress.progress_monitor = count_scans;
    r.input = (struct jpeg_source_mgr){.next_input_byte = s->bytes,
                                       .bytes_in_buffer = s->length,
                                       .init_source = nothing,
                                       .fill_input_buffer = need_more,
                                       .skip_input_data = skip,
                                       .resync_to_restart = jpeg_resync_to_restart,
                                       .term_source = nothing};
    bool ok = read_image(&r);
    jpeg_destroy_decompress(&r.jpeg);
    cb_free(r.inks);
    return ok;
}

/* ---- writing ---- */

typedef struct jpeg_writer {
    struct jpeg_compress_struct jpeg;
    jpeg_errors errors;
    unsigned char *bytes; /* malloc()ed by the library */
    unsigned long length;
} jpeg_writer;

static bool write_image(jpeg_writer *w, const cb_image *image, int quality)
{
    if (setjmp(w->errors.escape))
        return cb_fail(CB_ERR_MEMORY, "an image cannot be written as JPEG: %s", w->errors.message) == CB_OK;
    struct jpeg_compress_struct *jpeg = &w->jpeg;
    jpeg_create_compress(jpeg);
    jpeg_mem_dest(jpeg, &w->bytes, &w->length);
    jpeg->image_width = (JDIMENSION)image->width;
    jpeg->image_height = (JDIMENSION)image->height;
    jpeg->input_components = image->channels;
    jpeg->in_color_space = image->channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_set_defaults(jpeg);
    jpeg_set_quality(jpeg, quality, TRUE);
    jpeg_start_compress(jpeg, TRUE);
    size_t row = (size_t)image->width * (size_t)image->channels;
    while (jpeg->next_scanline < jpeg->image_height) {
        uint8_t *line = image->pixels + jpeg->next_scanline * row;
        jpeg_write_scanlines(jpeg, &line, 1);
    }
    jpeg_finish_compress(jpeg);
    return true;
}

bool cb_jpeg_encode(const cb_image *image, int quality, cb_string *out)
{
    jpeg_writer w = {0};
    w.jpeg.err = errors_of(&w.errors);
    bool ok = write_image(&w, image, quality) && cb_string_append(out, w.bytes, w.length);
    jpeg_destroy_compress(&w.jpeg);
    free(w.bytes);
    return ok;
}
