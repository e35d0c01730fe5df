/* adapt_stream.c: where the inputs of `cambium adapt` come from: images or texts, on disk or as they come. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "cli/adapt.h"

#define OPT cb_data_options
const cb_option cli_adapt_text_table[] = {
    CB_OPT_INT(OPT, sequence_length, 512, 1, 1 << 20, "tokens that a text is cut to; by default no more than the model can see"),
    CB_OPT_LIST(OPT, columns, NULL, "FIELD=NAME,...", "what fields of files of texts are called: text, text_pair, label"),
    CB_OPT_BOOL(OPT, shuffle, 1, "texts of a file come in an order by the seed, another in each round, else as they are in it"),
    CB_OPT_INT(OPT, max_records, 0, 0, 9e15, "texts of each file at most, spread over all of it (0: all)"), CB_OPT_END};
#undef OPT

static const char watched[] = "watch:";

static bool is_watched(const char *from)
{
    return strncmp(from, watched, strlen(watched)) == 0;
}

/* --stream DIR --watch is --stream watch:DIR. */
static bool name_watched(cli_call *call, cli_adapt_settings *s)
{
    char **first = &s->stream.items[0];
    if (!s->watch || is_watched(*first))
        return true;
    if (!cb_is_directory(*first))
        return cli_usage(call, "--watch is of a directory, and --stream %s is none", *first);
    char *named = cb_format("%s%s", watched, *first);
    if (!named)
        return false;
    cb_free(*first);
    *first = named;
    return true;
}

/* Whether a file would lie in a directory itself. */
static bool would_lie_in(const char *path, const char *directory)
{
    char a[PATH_MAX], b[PATH_MAX], *parent = cb_path_parent(path);
    bool in = parent && realpath(parent, a) && realpath(directory, b) && strcmp(a, b) == 0;
    cb_free(parent);
    return in;
}

/* Whether nothing is written into the directory that is watched: it would be taken for what comes. */
static bool check_watched(cli_call *call, const cli_adapt_settings *s, const char *directory)
{
    char *saved = s->save ? cb_path_join(s->save, "config.json") : NULL;
    bool ok = cb_ok();
    if (s->output && would_lie_in(s->output, directory))
        ok = cli_usage(call, "--output: %s lies in the directory that is watched, expected another place", s->output);
    else if (saved && would_lie_in(saved, directory))
        ok = cli_usage(call, "--save: %s is the directory that is watched, expected another", s->save);
    cb_free(saved);
    return ok;
}

bool cli_adapt_check_stream(cli_call *call, cli_adapt_settings *s)
{
    if (!s->stream.count)
        return cli_usage(call, "--stream is needed");
    if (!name_watched(call, s))
        return false;
    for (size_t i = 0; i < s->stream.count; i++)
        if (cb_stream_is_live(s->stream.items[i]) && s->stream.count > 1)
            return cli_usage(call, "--stream: %s is a pipe, expected nothing else beside it", s->stream.items[i]);
    const char *first = s->stream.items[0];
    if (cb_stream_is_live(first) && s->order.corruptions.count)
        return cli_usage(call, "--corruptions are of images on disk, and --stream is a pipe");
    return !is_watched(first) || check_watched(call, s, first + strlen(watched));
}

bool cli_adapt_inputs(cli_call *call, cli_adapt_settings *s, cli_base *base)
{
    const char *model = call->arguments[0];
    if (cli_takes_images(base->model))
        return cli_images_ready(&s->images, base->model, model, s->adapter.count == 1 ? s->adapter.items[0] : NULL);
    cli_fit_sequence_length(call, &s->text, base->model);
    base->tokenizer = cli_tokenizer(s->tokenizer, base->model);
    return base->tokenizer;
}

static cb_stream *open_stream(cli_adapt_settings *s, const cli_base *base, const cb_string_list *data, const cb_stream_options *order,
                              int64_t most)
{
    const char *from = cb_stream_is_live(data->items[0]) ? data->items[0] : NULL;
    if (base->tokenizer) {
        cb_data_options texts = s->text;
        texts.data = from ? (cb_string_list){0} : *data;
        texts.labels = cb_model_label_names(base->model);
        texts.seed = (uint64_t)s->seed;
        texts.max_records = most ? most : texts.max_records;
        return from ? cb_stream_open_text_lines(from, base->tokenizer, &texts, order)
                    : cb_stream_open_texts(base->tokenizer, &texts, order);
    }
    cb_image_data_options images = s->images.data;
    images.data = from ? (cb_string_list){0} : *data;
    images.processor = &s->images.processor;
    images.labels = cb_model_label_names(base->model);
    images.seed = (uint64_t)s->seed;
    images.max_images = most ? most : images.max_images;
    images.shuffle_images |= most > 0;
    return from ? cb_stream_open_lines(from, &images, order) : cb_stream_open_images(&images, order);
}

cb_stream *cli_adapt_stream(cli_adapt_settings *s, const cli_base *base)
{
    return open_stream(s, base, &s->stream, &s->order, 0);
}

cb_stream *cli_adapt_source(cli_adapt_settings *s, const cli_base *base)
{
    cb_stream_options order;
    if (!s->source_images.count || !cb_options_init(cb_stream_option_table, &order))
        return NULL;
    order.batch_size = s->order.batch_size;
    int64_t files = (int64_t)s->source_images.count;
    cb_stream *source = cb_stream_is_live(s->source_images.items[0])
                            ? NULL
                            : open_stream(s, base, &s->source_images, &order, (s->source_count + files - 1) / files);
    if (!source && cb_ok())
        cli_refuse("--source-images: %s is a pipe, expected files", s->source_images.items[0]);
    cb_options_free(cb_stream_option_table, &order);
    return source;
}
