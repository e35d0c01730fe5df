/* timm.c: models as the hub has them for timm: config.json names an `architecture` (vit_base_patch16_224), with arguments that differ from its own
 * (`model_args`), and weights have timm's names.  Here the one becomes what transformers would say of the same network, and names are turned.
 *
 * An architecture that is none of these, or an argument that is not known, is refused by name: it may mean another network. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "models/internal.h"

enum { MOST_STAGES = 4 };

/* ---- names ---- */

char *cb_rename(const char *name, const cb_rename_rule *rules)
{
    for (; rules->from; rules++) {
        const char *at = name, *from = rules->from;
        int numbers[2] = {0}, count = 0, used = 0;
        for (; *from; from++)
            if (*from == '%') {
                if (count == 2 || !isdigit((unsigned char)*at) || sscanf(at, "%d%n", &numbers[count], &used) != 1)
                    break;
                at += used;
                count++;
            } else if (*from != *at++)
                break;
        if (*from)
            continue;
        cb_string out = {0};
        count = 0;
        numbers[0] += rules->add;
        for (const char *to = rules->to; *to; to++)
            if (*to == '%')
                cb_string_printf(&out, "%d", numbers[count++]);
            else
                cb_string_append(&out, to, 1);
        cb_string_printf(&out, "%s", at);
        if (rules->part)
            cb_string_printf(&out, CB_RENAME_PART "%d/3", rules->part);
        return out.data;
    }
    return NULL;
}

/* ---- configurations ---- */

typedef struct timm {
    const char *path, *name; /* of config.json; what it calls the network */
    const json_t *config, *arguments;
    json_t *out;
} timm;

static bool put_integers(const timm *t, const char *key, const int64_t *values, int count)
{
    json_t *list = json_array();
    bool ok = list;
    for (int i = 0; ok && i < count; i++)
        ok = cb_json_add(list, json_integer(values[i]));
    ok = ok && cb_json_put(t->out, key, json_incref(list));
    json_decref(list);
    return ok;
}

/* An argument of timm's under transformers' name, or what the architecture has; NULL: nothing of its own. */
static bool put_argument(const timm *t, const char *key, const char *argument, json_t *otherwise)
{
    json_t *given = json_object_get(t->arguments, argument);
    if (!given)
        return !otherwise || cb_json_put(t->out, key, otherwise);
    json_decref(otherwise);
    return cb_json_put(t->out, key, json_incref(given));
}

/* All arguments must be among these. */
static bool check_arguments(const timm *t, const char *const *known)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)t->arguments, key, value)
    {
        int i = 0;
        while (known[i] && strcmp(known[i], key) != 0)
            i++;
        if (!known[i])
            return cb_fail(CB_ERR_UNSUPPORTED, "%s: model_args: found %.40s, which is not known of %.60s", t->path, key, t->name) == CB_OK;
    }
    return true;
}

static bool is_pooled_by(const timm *t, const char *expected)
{
    const char *pool = json_string_value(json_object_get(t->config, "global_pool"));
    return !pool || strcmp(pool, expected) == 0 ||
           cb_fail(CB_ERR_UNSUPPORTED, "%s: global_pool is \"%.20s\", expected \"%s\" of %.60s", t->path, pool, expected, t->name) == CB_OK;
}

static bool vision_transformer(const timm *t, const char *size, int64_t patch, int64_t side, bool distilled)
{
    static const struct {
        const char *size;
        int64_t width, layers, heads;
    } sizes[] = {{"tiny", 192, 12, 3}, {"small", 384, 12, 6}, {"base", 768, 12, 12}, {"large", 1024, 24, 16}};
    static const char *const known[] = {"img_size", "patch_size", "embed_dim", "depth", "num_heads", "qkv_bias", "in_chans", NULL};
    size_t i = 0;
    while (i < sizeof sizes / sizeof *sizes && strcmp(sizes[i].size, size) != 0)
        i++;
    if (i == sizeof sizes / sizeof *sizes)
        return false;
    int64_t width = sizes[i].width;
    const json_t *given = json_object_get(t->arguments, "embed_dim");
    width = json_is_integer(given) ? json_integer_value(given) : width;
    return check_arguments(t, known) && is_pooled_by(t, "token") && width > 0 && width < INT32_MAX &&
           cb_json_put(t->out, "model_type", json_string(distilled ? "deit" : "vit")) &&
           put_argument(t, "hidden_size", "embed_dim", json_integer(width)) &&
           cb_json_put(t->out, "intermediate_size", json_integer(4 * width)) &&
           put_argument(t, "num_hidden_layers", "depth", json_integer(sizes[i].layers)) &&
           put_argument(t, "num_attention_heads", "num_heads", json_integer(sizes[i].heads)) &&
           put_argument(t, "image_size", "img_size", json_integer(side)) &&
           put_argument(t, "patch_size", "patch_size", json_integer(patch)) && put_argument(t, "qkv_bias", "qkv_bias", NULL) &&
           put_argument(t, "num_channels", "in_chans", NULL) && cb_json_put(t->out, "layer_norm_eps", json_real(1e-6));
}

static bool residual_network(const timm *t, int depth)
{
    static const struct {
        int depth;
        bool basic;
        int64_t depths[MOST_STAGES];
    } sizes[] = {{18, true, {2, 2, 2, 2}},  {34, true, {3, 4, 6, 3}},    {26, false, {2, 2, 2, 2}},
                 {50, false, {3, 4, 6, 3}}, {101, false, {3, 4, 23, 3}}, {152, false, {3, 8, 36, 3}}};
    static const int64_t basic[] = {64, 128, 256, 512}, bottleneck[] = {256, 512, 1024, 2048};
    static const char *const known[] = {"in_chans", NULL};
    size_t i = 0;
    while (i < sizeof sizes / sizeof *sizes && sizes[i].depth != depth)
        i++;
    return i < sizeof sizes / sizeof *sizes && check_arguments(t, known) && is_pooled_by(t, "avg") &&
           cb_json_put(t->out, "model_type", json_string("resnet")) &&
           cb_json_put(t->out, "layer_type", json_string(sizes[i].basic ? "basic" : "bottleneck")) &&
           put_integers(t, "depths", sizes[i].depths, MOST_STAGES) &&
           put_integers(t, "hidden_sizes", sizes[i].basic ? basic : bottleneck, MOST_STAGES) &&
           put_argument(t, "num_channels", "in_chans", NULL);
}

static bool convnext(const timm *t, const char *size)
{
    static const struct {
        const char *size;
        int64_t third, width;
    } sizes[] = {{"tiny", 9, 96}, {"small", 27, 96}, {"base", 27, 128}, {"large", 27, 192}, {"xlarge", 27, 256}};
    static const char *const known[] = {"depths", "dims", "in_chans", NULL};
    size_t i = 0;
    while (i < sizeof sizes / sizeof *sizes && strcmp(sizes[i].size, size) != 0)
        i++;
    if (i == sizeof sizes / sizeof *sizes)
        return false;
    const int64_t depths[] = {3, 3, sizes[i].third, 3}, w = sizes[i].width, widths[] = {w, 2 * w, 4 * w, 8 * w};
    json_t *own = json_object_get(t->arguments, "depths"), *dims = json_object_get(t->arguments, "dims");
    return check_arguments(t, known) && is_pooled_by(t, "avg") && cb_json_put(t->out, "model_type", json_string("convnext")) &&
           (own ? cb_json_put(t->out, "depths", json_incref(own)) : put_integers(t, "depths", depths, MOST_STAGES)) &&
           (dims ? cb_json_put(t->out, "hidden_sizes", json_incref(dims)) : put_integers(t, "hidden_sizes", widths, MOST_STAGES)) &&
           cb_json_put(t->out, "num_stages", json_integer(own ? (json_int_t)json_array_size(own) : MOST_STAGES)) &&
           put_argument(t, "num_channels", "in_chans", NULL) && cb_json_put(t->out, "layer_norm_eps", json_real(1e-6));
}

static bool shifted_windows(const timm *t, const char *size, int64_t patch, int64_t window, int64_t side)
{
    static const struct {
        const char *size;
        int64_t width, third, heads;
    } sizes[] = {{"tiny", 96, 6, 3}, {"small", 96, 18, 3}, {"base", 128, 18, 4}, {"large", 192, 18, 6}};
    static const char *const known[] = {"img_size", "patch_size", "window_size", "embed_dim", "depths", "num_heads", "in_chans", NULL};
    size_t i = 0;
    while (i < sizeof sizes / sizeof *sizes && strcmp(sizes[i].size, size) != 0)
        i++;
    if (i == sizeof sizes / sizeof *sizes)
        return false;
    const int64_t depths[] = {2, 2, sizes[i].third, 2}, h = sizes[i].heads, heads[] = {h, 2 * h, 4 * h, 8 * h};
    json_t *own = json_object_get(t->arguments, "depths"), *own_heads = json_object_get(t->arguments, "num_heads");
    return check_arguments(t, known) && is_pooled_by(t, "avg") && cb_json_put(t->out, "model_type", json_string("swin")) &&
           put_argument(t, "embed_dim", "embed_dim", json_integer(sizes[i].width)) &&
           (own ? cb_json_put(t->out, "depths", json_incref(own)) : put_integers(t, "depths", depths, MOST_STAGES)) &&
           (own_heads ? cb_json_put(t->out, "num_heads", json_incref(own_heads)) : put_integers(t, "num_heads", heads, MOST_STAGES)) &&
           put_argument(t, "image_size", "img_size", json_integer(side)) &&
           put_argument(t, "patch_size", "patch_size", json_integer(patch)) &&
           put_argument(t, "window_size", "window_size", json_integer(window)) && put_argument(t, "num_channels", "in_chans", NULL);
}

/* Whether the name is one that is known; with an error: it is, and something in its file is not. */
static bool translate(const timm *t)
{
    char size[16];
    int a, b, c, end = 0;
    const int length = (int)strlen(t->name);
    if (sscanf(t->name, "vit_%15[a-z]_patch%d_%d%n", size, &a, &b, &end) == 3 && end == length)
        return vision_transformer(t, size, a, b, false);
    if (sscanf(t->name, "deit_%15[a-z]_patch%d_%d%n", size, &a, &b, &end) == 3 && end == length)
        return vision_transformer(t, size, a, b, false);
    if (sscanf(t->name, "deit_%15[a-z]_distilled_patch%d_%d%n", size, &a, &b, &end) == 3 && end == length)
        return vision_transformer(t, size, a, b, true);
    if (sscanf(t->name, "resnet%d%n", &a, &end) == 1 && end == length)
        return residual_network(t, a);
    if (sscanf(t->name, "convnext_%15[a-z]%n", size, &end) == 1 && end == length)
        return convnext(t, size);
    if (sscanf(t->name, "swin_%15[a-z]_patch%d_window%d_%d%n", size, &a, &b, &c, &end) == 4 && end == length)
        return shifted_windows(t, size, a, b, c);
    return false;
}

/* Labels and the class; what else the file holds (pretrained_cfg: how images are made ready) stays. */
static bool complete(const timm *t)
{
    static const struct {
        const char *type, *class;
    } classes[] = {{"vit", "ViT"}, {"deit", "DeiT"}, {"resnet", "ResNet"}, {"convnext", "ConvNext"}, {"swin", "Swin"}};
    const char *type = json_string_value(json_object_get(t->out, "model_type")), *class = "";
    const json_t *count = json_object_get(t->config, "num_classes");
    json_t *names = json_object_get(t->config, "label_names"), *by_number = json_object();
    bool bare = json_is_integer(count) && json_integer_value(count) == 0, distilled = strcmp(type, "deit") == 0, ok = by_number;
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        class = strcmp(classes[i].type, type) == 0 ? classes[i].class : class;
    for (size_t i = 0; ok && i < json_array_size(names); i++) {
        char key[24];
        snprintf(key, sizeof key, "%zu", i);
        ok = !json_is_string(json_array_get(names, i)) || cb_json_put(by_number, key, json_incref(json_array_get(names, i)));
    }
    if (ok && json_is_integer(count) && !bare)
        ok = cb_json_put(t->out, "num_labels", json_incref((json_t *)(uintptr_t)count));
    if (ok && json_object_size(by_number) && (json_int_t)json_object_size(by_number) == json_integer_value(count))
        ok = cb_json_put(t->out, "id2label", json_incref(by_number));
    json_decref(by_number);
    json_t *list = json_pack("[s++]", class,
                             bare        ? "Model"
                             : distilled ? "ForImageClassificationWithTeacher"
                                         : "ForImageClassification",
                             "");
    json_t *prepared = json_object_get(t->config, "pretrained_cfg");
    return ok && list && cb_json_put(t->out, "architectures", list) &&
           (!prepared || cb_json_put(t->out, "pretrained_cfg", json_incref(prepared)));
}

json_t *cb_timm_config(const char *path, const json_t *config)
{
    timm t = {.path = path,
              .name = json_string_value(json_object_get(config, "architecture")),
              .config = config,
              .arguments = json_object_get(config, "model_args"),
              .out = json_object()};
    if (t.name && t.out && translate(&t) && complete(&t))
        return t.out;
    json_decref(t.out);
    if (cb_ok() && t.name)
        cb_fail(CB_ERR_UNSUPPORTED,
                "%s: architecture is \"%.80s\", expected one of timm's vit_SIZE_patchP_S, deit_SIZE_patchP_S, "
                "deit_SIZE_distilled_patchP_S, resnetN, "
                "convnext_SIZE or swin_SIZE_patchP_windowW_S",
                path, t.name);
    return NULL;
}
