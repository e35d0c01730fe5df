/* zoo.c: `cambium zoo list | build`: small networks that experiments share, pre-trained from the data sets.
 *
 * A network is made by commands that anyone could type; they are run one after another and recorded, in its README.md and zoo.json, with what
 * they came to.  It is built in NAME.building beside its place, where an interrupted build goes on, and appears under its name when it is
 * whole. */
#include "experiments/zoo.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "experiments/vision.h"

typedef struct settings {
    bool quick;
    char *output;
} settings;

static const cb_option table[] = {
    CB_OPT_BOOL(settings, quick, false, "a smoke run of seconds, with made-up text, which gives a network of no use"),
    CB_OPT_STRING(settings, output, NULL, "DIR", "where to put it; without it below CAMBIUM_ZOO, else cambium/zoo in the user's cache"),
    CB_OPT_END};
static const cli_group groups[] = {{"Build", table, 0}, {0}};

/* A build under way. */
typedef struct building {
    const cli_call *call;
    const zoo_network *network;
    const settings *settings;
    char *place, *work;               /* where it will be, and is made */
    char *data;                       /* the sets; NULL: there are none */
    char *train, *held_out;           /* texts, or images */
    char *train_maps, *held_out_maps; /* of these; NULL: they have none */
    char *tokenizer, *processor, *config, *model;
    json_t *commands; /* as they are recorded, with names seen from `work` */
    json_t *held_out_loss;
} building;

static bool of_images(const building *b)
{
    return b->network->processor;
}

/* ---- commands ---- */

enum { MOST_WORDS = 96 };
typedef struct words {
    const char *items[MOST_WORDS];
    size_t count;
} words;

static void put(words *w, const char *word)
{
    if (w->count + 1 < MOST_WORDS)
        w->items[w->count++] = word;
}

static void put_pair(words *w, const char *option, const char *value)
{
    put(w, option);
    put(w, value);
}

static void put_all(words *w, const char *const *list)
{
    for (; list && *list; list++)
        put(w, *list);
}

static bool lies_in(const char *path, const char *directory)
{
    size_t length = directory ? strlen(directory) : 0;
    return length && strncmp(path, directory, length) == 0 && path[length] == '/';
}

/* Paths in `work` without it, those of data below CAMBIUM_DATA, as one would type them there. */
static bool record_word(const building *b, const char *word, cb_string *line)
{
    if (lies_in(word, b->work))
        word += strlen(b->work) + 1;
    else if (lies_in(word, b->data))
        return cb_string_printf(line, "$CAMBIUM_DATA%s", word + strlen(b->data));
    const char *quote = strpbrk(word, "<>|*? ") ? "'" : "";
    return cb_string_printf(line, "%s%s%s", quote, word, quote);
}

static bool record(building *b, const words *w)
{
    cb_string line = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < w->count; i++)
        ok = (i == 0 || cb_string_puts(&line, " ")) && record_word(b, w->items[i], &line);
    ok = ok && json_array_append_new(b->commands, json_string(line.data)) == 0;
    cb_string_free(&line);
    return ok;
}

/* What this command was told of threads and output goes on to those that it is made of. */
static void put_common(const building *b, words *w, char *threads, size_t size)
{
    const cli_common *c = &b->call->common;
    if (c->threads) {
        snprintf(threads, size, "%lld", (long long)c->threads);
        put_pair(w, "--threads", threads);
    }
    if (c->quiet)
        put(w, "--quiet");
    if (c->json)
        put(w, "--json");
}

static bool carry_out(building *b, words *w, bool resume)
{
    char threads[24];
    if (!record(b, w))
        return false;
    put_common(b, w, threads, sizeof threads);
    if (resume)
        put(w, "--resume");
    return cli_run_command(w->items[1], w->items);
}

/* ---- steps ---- */

static bool put_words(cb_string *out, const char *const *list)
{
    bool ok = true;
    for (; ok && list && *list; list++)
        ok = cb_string_printf(out, " %s", *list);
    return ok && cb_string_puts(out, "\n");
}

/* A build goes on where one of the same data and options stopped; what another left is not built on. */
static bool same_as_begun(const building *b)
{
    const zoo_network *n = b->network;
    cb_string now = {0};
    char *path = cb_path_join(b->work, "begun"), *begun = NULL;
    size_t length = 0;
    bool ok = path &&
              cb_string_printf(&now, "%s\n%s\n%s%s\n", n->name, b->data ? b->data : "", n->config,
                               of_images(b) ? n->processor : n->tokenizer_config) &&
              put_words(&now, n->tokenizer) && put_words(&now, n->training) &&
              (!b->settings->quick || (put_words(&now, n->quick_tokenizer) && put_words(&now, n->quick_training)));
    if (ok && cb_is_file(path)) {
        begun = cb_file_read(path, 1 << 20, &length);
        ok = begun && (strcmp(begun, now.data) == 0 ||
                       cli_refuse("%s: a build was begun here with other data or options; remove the directory to begin anew", b->work));
    } else {
        ok = ok && cb_file_write(path, now.data, now.length);
    }
    cb_free(begun);
    cb_free(path);
    cb_string_free(&now);
    return ok;
}

static bool is_there(const char *path)
{
    return cb_is_file(path) || cb_is_directory(path);
}

static bool write_examples(const building *b)
{
    if (is_there(b->train) && is_there(b->held_out))
        return true;
    if (b->train_maps && !b->data)
        return maps_made_up(b->train, b->train_maps, 1) && maps_made_up(b->held_out, b->held_out_maps, 2);
    if (of_images(b))
        return !b->data ? pictures_made_up(b->train, 3, 1) && pictures_made_up(b->held_out, 3, 2)
                        : cli_refuse("%s: not found", is_there(b->train) ? b->held_out : b->train);
    return b->network->texts(b->data, b->settings->quick, b->train, b->held_out);
}

static bool train_tokenizer(building *b)
{
    char *directory = cb_path_parent(b->tokenizer), *beside = directory ? cb_path_join(directory, "tokenizer_config.json") : NULL;
    words w = {.items = {CLI_PROGRAM, "tokenizer", "train"}, .count = 3};
    put_pair(&w, "--data", b->train);
    put_all(&w, b->network->tokenizer);
    if (b->settings->quick)
        put_all(&w, b->network->quick_tokenizer);
    put_pair(&w, "--output", b->tokenizer);
    const char *text = b->network->tokenizer_config;
    bool ok = beside && cb_directory_make(directory) && cb_file_write(beside, text, strlen(text)) &&
              (cb_is_file(b->tokenizer) ? record(b, &w) : carry_out(b, &w, false));
    cb_free(beside);
    cb_free(directory);
    return ok;
}

static bool write_config(const building *b)
{
    cb_tokenizer *tokenizer = of_images(b) ? NULL : cb_tokenizer_load(b->tokenizer);
    char size[24];
    snprintf(size, sizeof size, "%zu", tokenizer ? cb_tokenizer_vocab_size(tokenizer) : 0);
    cb_tokenizer_free(tokenizer);
    const char *config = b->network->config, *mark = strstr(config, "%s");
    char *text =
        cb_ok() ? cb_format("%.*s%s%s", mark ? (int)(mark - config) : (int)strlen(config), config, mark ? size : "", mark ? mark + 2 : "")
                : NULL;
    bool ok = text && cb_file_write(b->config, text, strlen(text)) &&
              (!of_images(b) || cb_file_write(b->processor, b->network->processor, strlen(b->network->processor)));
    cb_free(text);
    return ok;
}

static void put_maps(const building *b, words *w, const char *maps)
{
    if (maps)
        put_pair(w, "--label-maps", maps);
    put_all(w, b->network->reading);
}

static bool train(building *b)
{
    char *checkpoint = cb_path_join(b->model, "checkpoint.safetensors"), *directory = cb_path_parent(b->tokenizer);
    words w = {.items = {CLI_PROGRAM, "pretrain"}, .count = 2};
    put_pair(&w, "--config", b->config);
    if (of_images(b)) {
        put_pair(&w, "--image-processor", b->processor);
        put_pair(&w, "--data", b->train);
        put_maps(b, &w, b->train_maps);
    } else {
        put_pair(&w, "--tokenizer", directory);
        put_pair(&w, "--data", b->train);
        put_pair(&w, "--validation-data", b->held_out);
    }
    put_all(&w, b->network->training);
    if (b->settings->quick)
        put_all(&w, b->network->quick_training);
    put_pair(&w, "--output", b->model);
    bool ok = checkpoint && directory && carry_out(b, &w, cb_is_file(checkpoint));
    cb_free(directory);
    cb_free(checkpoint);
    return ok;
}

static bool judge(building *b)
{
    char threads[24];
    words w = {.items = {CLI_PROGRAM, "eval", b->model, "--data", b->held_out}, .count = 5};
    put_maps(b, &w, b->held_out_maps);
    if (!of_images(b)) {
        put(&w, "--lines");
        put_pair(&w, "--sequence-length", b->settings->quick ? "32" : "128");
    }
    if (!record(b, &w))
        return false;
    put_pair(&w, "--quiet", "--json");
    if (b->call->common.threads) {
        snprintf(threads, sizeof threads, "%lld", (long long)b->call->common.threads);
        put_pair(&w, "--threads", threads);
    }
    b->held_out_loss = cli_run_self("eval", w.items);
    return b->held_out_loss;
}

/* ---- the record ---- */

/* The last line of log.jsonl that has the key. */
static json_t *last_report(const building *b, const char *key)
{
    char *path = cb_path_join(b->model, "log.jsonl");
    size_t length = 0;
    char *text = path ? cb_file_read(path, (size_t)1 << 30, &length) : NULL;
    json_t *found = NULL;
    for (char *at = text, *end; at && (end = strchr(at, '\n')); at = end + 1) {
        json_t *line = json_loadb(at, (size_t)(end - at), 0, NULL);
        if (line && json_object_get(line, key)) {
            json_decref(found);
            found = json_incref(line);
        }
        json_decref(line);
    }
    cb_free(text);
    cb_free(path);
    return found;
}

typedef struct summary {
    int64_t bytes, lines, files;
    uint64_t hash;
} summary;

static bool add_file(summary *s, const char *path)
{
    cb_file_map map = {0};
    if (!cb_file_map_open(&map, path))
        return false;
    for (size_t i = 0; i < map.size; i++) {
        s->lines += map.data[i] == '\n';
        s->hash = (s->hash ^ map.data[i]) * UINT64_C(0x100000001b3);
    }
    s->bytes += (int64_t)map.size;
    s->files++;
    cb_file_map_close(&map);
    return true;
}

/* Of all files in it, in the order of their names. */
static bool add_directory(summary *s, const char *path)
{
    cb_string_list names = {0};
    bool ok = cb_directory_list(path, true, &names);
    for (size_t i = 0; ok && i < names.count; i++) {
        char *file = cb_path_join(path, names.items[i]);
        ok = file && add_file(s, file);
        cb_free(file);
    }
    cb_string_list_free(&names);
    return ok;
}

/* Of a file, or of all that a directory holds; NULL: there is none. */
static json_t *file_record(const char *path)
{
    summary s = {.hash = CB_HASH_START};
    if (!path)
        return NULL;
    bool directory = cb_is_directory(path);
    if (!(directory ? add_directory : add_file)(&s, path))
        return NULL;
    char digits[20];
    snprintf(digits, sizeof digits, "%016llx", (unsigned long long)s.hash);
    return json_pack("{s:s, s:I, s:o*, s:o*, s:s}", "name", cb_path_base(path), "bytes", (json_int_t)s.bytes, "lines",
                     cb_ends_with(path, ".txt") ? json_integer((json_int_t)s.lines) : NULL, "files",
                     directory ? json_integer((json_int_t)s.files) : NULL, "fnv1a", digits);
}

static json_t *whole_record(const building *b)
{
    json_t *last = last_report(b, "loss"), *texts = json_array(), *sets = json_array();
    for (const char *const *set = b->network->data; *set; set++)
        json_array_append_new(sets, json_string(*set));
    const char *const read[] = {b->train, b->train_maps, b->held_out, b->held_out_maps};
    for (size_t i = 0; i < sizeof read / sizeof *read; i++)
        if (read[i])
            json_array_append_new(texts, file_record(read[i]));
    json_t *record =
        json_pack("{s:s, s:s, s:s, s:b, s:o, s:o, s:O, s:O?, s:O?, s:O?, s:O?, s:O}", "name", b->network->name, "title", b->network->title,
                  "program", CB_VERSION, "quick", (int)b->settings->quick, "data_sets", sets, "texts", texts, "commands", b->commands,
                  "steps", json_object_get(last, "step"), "seconds", json_object_get(last, "seconds"), "tokens_per_second",
                  json_object_get(last, "tokens_per_second"), "last_loss", json_object_get(last, "loss"), "held_out", b->held_out_loss);
    json_decref(last);
    if (!record)
        cb_fail(CB_ERR_STATE, "%s: log.jsonl says nothing of the training", b->model);
    return record;
}

static double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static const char *held_out_text(const building *b, const json_t *held_out, char *text, size_t size)
{
    if (b->train_maps)
        snprintf(text, size, "mean IoU %.3f, pixel accuracy %.3f", number(held_out, "mean_iou"), number(held_out, "pixel_accuracy"));
    else if (of_images(b))
        snprintf(text, size, "loss %.4f, accuracy %.3f", number(held_out, "loss"), number(held_out, "accuracy"));
    else
        snprintf(text, size, "loss %.4f, perplexity %.3f", number(held_out, "loss"), number(held_out, "perplexity"));
    return text;
}

/* The same for people. */
static bool write_readme(const building *b, const json_t *record)
{
    char shown[64];
    cb_string page = {0};
    const json_t *held_out = json_object_get(record, "held_out"), *text;
    size_t i;
    bool ok = cb_string_printf(&page, "# %s\n\nA %s. Made by `%s zoo build %s%s`.\n\n", b->network->name, b->network->title, CLI_PROGRAM,
                               b->network->name, b->settings->quick ? " --quick" : "");
    json_array_foreach(json_object_get(record, "texts"), i, text)
    {
        const json_t *lines = json_object_get(text, "lines"), *files = json_object_get(text, "files"), *parts = lines ? lines : files;
        ok = ok && cb_string_printf(&page, "%s`%s`: %s%s%s bytes, FNV-1a %s", i ? "; " : "",
                                    json_string_value(json_object_get(text, "name")), parts ? cli_thousands(json_integer_value(parts)) : "",
                                    lines   ? " lines, "
                                    : files ? " files, "
                                            : "",
                                    cli_thousands(json_integer_value(json_object_get(text, "bytes"))),
                                    json_string_value(json_object_get(text, "fnv1a")));
    }
    ok = ok && cb_string_puts(&page, ". From the data sets");
    for (const char *const *set = b->network->data; ok && *set; set++)
        ok = cb_string_printf(&page, "%s %s", set == b->network->data ? "" : ",", *set);
    ok = ok && cb_string_puts(&page, ".\n\n```\n");
    json_array_foreach(b->commands, i, text)
    {
        ok = ok && cb_string_printf(&page, "%s\n", json_string_value(text));
    }
    ok = ok &&
         cb_string_printf(&page, "```\n\n| | |\n|---|---|\n| steps | %s |\n| time | %s |\n| loss of the last steps | %.4f |\n",
                          cli_thousands(json_integer_value(json_object_get(record, "steps"))), cli_seconds(number(record, "seconds")),
                          number(record, "last_loss")) &&
         cb_string_printf(&page, "| held-out %s | %s |\n\n![loss](curves.png)\n", of_images(b) ? "images" : "text",
                          held_out_text(b, held_out, shown, sizeof shown));
    char *path = ok ? cb_path_join(b->model, "README.md") : NULL;
    ok = path && cb_file_write(path, page.data, page.length);
    cb_free(path);
    cb_string_free(&page);
    return ok;
}

static bool write_record(const building *b)
{
    json_t *record = whole_record(b);
    char *text = record ? json_dumps(record, JSON_INDENT(2)) : NULL, *path = text ? cb_path_join(b->model, "zoo.json") : NULL;
    bool ok = path && cb_file_write(path, text, strlen(text)) && write_readme(b, record);
    if (ok && b->call->common.json)
        ok = cli_json(json_incref(record));
    cb_free(path);
    free(text);
    json_decref(record);
    return ok;
}

/* ---- done ---- */

static void remove_named(const char *directory, const char *name)
{
    char *path = cb_path_join(directory, name);
    if (path && cb_is_file(path))
        cb_file_remove(path);
    cb_free(path);
}

/* What lies in `work` beside the model and the tokenizer. */
static const char *const made_names[] = {"train.txt",          "held-out.txt",       "config.json",           "preprocessor_config.json",
                                         "train-images-ubyte", "train-labels-ubyte", "held-out-images-ubyte", "held-out-labels-ubyte"};

/* Gives the model its name; what it was made with is not kept. */
static bool publish(const building *b)
{
    char *directory = cb_path_parent(b->tokenizer);
    if (!directory || rename(b->model, b->place) != 0) {
        cb_free(directory);
        return cb_fail(CB_ERR_IO, "%s: cannot be given its name: %s", b->place, strerror(errno)) == CB_OK;
    }
    remove_named(b->place, "checkpoint.safetensors");
    remove_named(b->work, "begun");
    for (size_t i = 0; i < sizeof made_names / sizeof *made_names; i++)
        remove_named(b->work, made_names[i]);
    for (int i = 0; b->train_maps && !b->data && i < 4; i++)
        maps_remove((const char *const[]){b->train, b->train_maps, b->held_out, b->held_out_maps}[i]);
    remove_named(directory, "tokenizer.json");
    remove_named(directory, "tokenizer_config.json");
    remove(directory);
    remove(b->work);
    cb_free(directory);
    return cb_ok();
}

static bool build(building *b)
{
    char shown[64];
    bool ok = cb_directory_make(b->work) && same_as_begun(b) && write_examples(b) && (of_images(b) || train_tokenizer(b)) &&
              write_config(b) && train(b) && judge(b) && write_record(b) && publish(b);
    if (ok && !b->call->common.json) {
        cli_field("network", "%s", b->place);
        cli_field(of_images(b) ? "held-out images" : "held-out text", "%s", held_out_text(b, b->held_out_loss, shown, sizeof shown));
    }
    return ok;
}

/* What it is made of: texts are written in `work`, images lie in the data, or are made up. */
static void name_examples(building *b)
{
    const zoo_network *n = b->network;
    b->data = cb_experiment_data(n->data);
    if (!b->data && b->settings->quick)
        cb_error_clear();
    bool found = of_images(b) && b->data;
    const char *train = n->train_maps ? "train" : of_images(b) ? "train-images-ubyte" : "train.txt";
    const char *held_out = n->train_maps ? "held-out" : of_images(b) ? "held-out-images-ubyte" : "held-out.txt";
    b->train = !b->work ? NULL : found ? cb_path_join(b->data, n->train) : cb_path_join(b->work, train);
    b->held_out = !b->train ? NULL : found ? cb_path_join(b->data, n->held_out) : cb_path_join(b->work, held_out);
    if (n->train_maps && b->held_out) {
        b->train_maps = found ? cb_path_join(b->data, n->train_maps) : cb_path_join(b->work, "train-maps");
        b->held_out_maps = found ? cb_path_join(b->data, n->held_out_maps) : cb_path_join(b->work, "held-out-maps");
    }
}

static bool build_run(cli_call *call, void *settings_)
{
    const settings *s = settings_;
    building b = {.call = call, .settings = s, .network = zoo_find(call->arguments[0])};
    if (!b.network)
        return false;
    b.place = s->output ? cb_strdup(s->output) : zoo_directory(b.network->name);
    if (b.place && strlen(b.place) > 1 && cb_ends_with(b.place, "/"))
        b.place[strlen(b.place) - 1] = '\0';
    b.work = b.place ? cb_format("%s.%sbuilding", b.place, s->quick ? "quick-" : "") : NULL;
    name_examples(&b);
    b.tokenizer = b.work ? cb_path_join(b.work, "tokenizer/tokenizer.json") : NULL;
    b.processor = b.work ? cb_path_join(b.work, "preprocessor_config.json") : NULL;
    b.config = b.work ? cb_path_join(b.work, "config.json") : NULL;
    b.model = b.work ? cb_path_join(b.work, "model") : NULL;
    b.commands = json_array();
    bool ok = cb_ok() && b.model && b.commands && cb_directory_vacant(b.place) && build(&b);
    json_decref(b.commands);
    json_decref(b.held_out_loss);
    char *const made[] = {b.place,         b.work,      b.data,      b.train,  b.held_out, b.train_maps,
                          b.held_out_maps, b.tokenizer, b.processor, b.config, b.model};
    for (size_t i = 0; i < sizeof made / sizeof *made; i++)
        cb_free(made[i]);
    return ok && cb_ok();
}

const cli_command cli_zoo_build = {
    .name = "zoo build",
    .summary = "pre-train one of the small networks that experiments share",
    .synopsis = "NAME [options]",
    .description =
        "Trains the network on the data sets that CAMBIUM_DATA names, of text with a tokenizer made first; an interrupted build goes on "
        "from its last checkpoint. The result is a model directory like any other; its README.md and zoo.json say which commands made "
        "it and what they came to.",
    .least = 1,
    .most = 1,
    .settings_size = sizeof(settings),
    .groups = groups,
    .examples = (const char *const[]){"cambium zoo build encoder-multilingual",
                                      "cambium zoo build encoder-multilingual --quick --output out/encoder", NULL},
    .run = build_run};

/* ---- list ---- */

static bool list_run(cli_call *call, void *unused)
{
    (void)unused;
    cli_table t = {.columns = 3, .right = "lll"};
    json_t *list = json_array();
    for (const zoo_network *n = zoo_networks(); n->name; n++) {
        char *place = zoo_directory(n->name);
        bool built = place && cb_is_directory(place);
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:s?, s:b}", "name", n->name, "title", n->title, "directory", place, "built", (int)built));
        cli_table_add(&t, "%s", n->name);
        cli_table_add(&t, "%s", n->title);
        cli_table_add(&t, "%s", built ? place : "not built");
        cb_free(place);
    }
    if (!call->common.json) {
        json_decref(list);
        cli_table_print(&t);
        return cb_ok();
    }
    cb_string_list_free(&t.cells);
    return cli_json(json_pack("{s:o}", "networks", list));
}

const cli_command cli_zoo_list = {.name = "zoo list",
                                  .summary = "list the small networks that experiments share, and where those are that are built",
                                  .synopsis = "[options]",
                                  .description = "`cambium zoo build NAME` makes one.",
                                  .examples = (const char *const[]){"cambium zoo list --json", NULL},
                                  .run = list_run};
