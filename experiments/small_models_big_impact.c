/* small_models_big_impact.c: Small Models, Big Impact (50).  arXiv:2502.10140.
 *
 * Stage 1 adapts the encoder to a language by masked language modelling, on text of it or on a graph of its words put into sentences; stage 2
 * trains a task's adapter and head on the frozen language adapter (MAD-X's stack).  An arm is a way to do the first: none at all, three kinds of
 * adapters, or all weights.
 *
 * What stage 1 leaves, an adapter or a model and the log pseudo-perplexities of sentences, is kept for all seeds in the shared directory, where a
 * later run with the same arm, rate and language takes it from. */
#define _GNU_SOURCE /* memmem, memrchr */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "experiments/data_sets.h"
#include "experiments/encoders.h"
#include "experiments/languages.h"

/* ---- languages ---- */

typedef struct language {
    const char *code;
    const char *topics; /* SIB-200's directory; NULL: none */
    const char *names;  /* MasakhaNER's archive; NULL: none */
    const char *signs;  /* CLDR's name of it */
} language;
/* From the largest share of pre-training to the smallest. */
static const language languages[] = {{"eng", "eng_Latn", NULL, "en"},  {"deu", "deu_Latn", NULL, "de"},  {"swh", "swh_Latn", "swa", "sw"},
                                     {"hau", "hau_Latn", "hau", "ha"}, {"yor", "yor_Latn", "yor", "yo"}, {"wol", NULL, "wol", "wo"}};
enum { LANGUAGES = sizeof languages / sizeof *languages, TUNED = 2 /* the rates are chosen in Swahili */ };

static const char *const topics[] = {"science/technology", "travel", "politics", "sports", "health", "entertainment", "geography", NULL};
static const char *const tags[] = {"O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-DATE", "I-DATE", NULL};

/* ---- what is compared ---- */

typedef enum source { TEXT, GRAPH } source;
typedef struct plan {
    const char *kind;    /* of the language adapter; "full": all weights; NULL: none */
    const char *options; /* JSON */
    source source;
} plan;

#define SEQ_BN     "{\"reduction_factor\": 16}"
#define SEQ_BN_INV "{\"reduction_factor\": 16, \"inv_adapter\": \"nice\"}"
#define LORA       "{\"r\": 8, \"lora_alpha\": 8, \"target_modules\": [\"query\", \"value\"]}"
static const plan none = {0}, text_bn = {"bottleneck", SEQ_BN, TEXT}, text_inv = {"bottleneck", SEQ_BN_INV, TEXT},
                  text_lora = {"lora", LORA, TEXT}, text_full = {"full", NULL, TEXT}, graph_bn = {"bottleneck", SEQ_BN, GRAPH};

static const double rates[] = {1e-3, 3e-3, 1e-2, 0}, full_rates[] = {1e-4, 3e-4, 1e-3, 0};
#define NONE "no language adapter"
static const cb_arm arms[] = {{NONE, NULL, NULL, &none},
                              {"bottleneck, text", NONE, rates, &text_bn},
                              {"invertible, text", NONE, rates, &text_inv},
                              {"LoRA, text", NONE, rates, &text_lora},
                              {"all weights, text", NONE, full_rates, &text_full},
                              {"bottleneck, graph", NONE, rates, &graph_bn},
                              {0}};

#define PPL       "log pseudo-perplexity"
#define FLORES    "the same of FLORES"
#define TOPIC_F1  "topics, macro F1"
#define TOPIC_ACC "topics, accuracy"
#define NAME_F1   "names, F1"
#define PPL_RHO   "share and gain in perplexity"
#define F1_RHO    "share and gain in topics"
static const cb_measure measures[] = {{PPL, "nats", .digits = 3, .lower = true},        {FLORES, "nats", .digits = 3, .lower = true},
                                      {TOPIC_F1, "%", .scale = 100, .digits = 1},       {TOPIC_ACC, "%", .scale = 100, .digits = 1},
                                      {NAME_F1, "%", .scale = 100, .digits = 1},        {PPL_RHO, "Spearman", .digits = 2, .aside = true},
                                      {F1_RHO, "Spearman", .digits = 2, .aside = true}, {0}};
static const cb_comparison comparisons[] = {
    {"a bottleneck lowers pseudo-perplexity", PPL, "bottleneck, text", NONE, 0, "best of the three by pseudo-perplexity"},
    {"an invertible bottleneck lowers it", PPL, "invertible, text", NONE, 0, NULL},
    {"LoRA lowers it", PPL, "LoRA, text", NONE, 0, NULL},
    {"a bottleneck is better than LoRA", PPL, "bottleneck, text", "LoRA, text", 0, "LoRA behind"},
    {"a bottleneck is better than an invertible one", PPL, "bottleneck, text", "invertible, text", 0, "yes"},
    {"a bottleneck, on FLORES, lowers it", FLORES, "bottleneck, text", NONE, 0, "FLORES-200 devtest is what the paper judges"},
    {"topics are told better over a bottleneck than without", TOPIC_ACC, "bottleneck, text", NONE, 0, "yes"},
    {"over an invertible one", TOPIC_ACC, "invertible, text", NONE, 0, "slightly the best"},
    {"over LoRA", TOPIC_ACC, "LoRA, text", NONE, 0, "LoRA behind"},
    {"over a bottleneck of graphs", TOPIC_ACC, "bottleneck, graph", NONE, 0, "yes"},
    {"an invertible bottleneck is no worse on topics than all weights by a point", TOPIC_ACC, "invertible, text", "all weights, text", -1,
     "matches or beats full fine-tuning"},
    {"names are found better over an invertible one than without", NAME_F1, "invertible, text", NONE, 0, "slightly the best"},
    {"and no worse than over all weights by a point", NAME_F1, "invertible, text", "all weights, text", -1, "matches or beats"},
    {0}};

/* ---- files ---- */

static char *shared_path(const cb_run *run, const char *code, const char *name)
{
    return cb_format("%s/%s-%s", run->shared, code, name);
}

/* Lines of a language's text for adaptation: every 20th is judged by, every 20th is for choosing, the others are learned. */
enum { EVERY = 20, JUDGED = 30, MOST_BYTES = 600000 };

static bool add_text(const cb_run *run, const char *code, line_list parts[3])
{
    line_list all = {0};
    bool ok = run->quick || language_lines(run->data, code, LANGUAGE_ADAPTATION, MOST_BYTES, &all);
    for (int i = 0; ok && run->quick && i < 100; i++)
        ok = line_list_add(&all, "the old river went to a house", 29);
    for (size_t i = 0; ok && i < all.count; i++) {
        size_t length;
        const char *line = line_at(&all, i, &length);
        int part = i % EVERY == EVERY - 1 ? 2 : i % EVERY == EVERY / 2 ? 1 : 0;
        ok = (part && parts[part].count == JUDGED) || line_list_add(&parts[part], line, length);
    }
    line_list_free(&all);
    return ok;
}

static bool write_text(const cb_run *run, const char *code)
{
    static const char *const names[] = {"text.txt", "validation.txt", "held-out.txt"};
    line_list parts[3] = {0};
    bool ok = add_text(run, code, parts);
    for (int p = 0; p < 3; p++) {
        char *path = ok ? shared_path(run, code, names[p]) : NULL;
        ok = path && line_list_write(&parts[p], path);
        cb_free(path);
        line_list_free(&parts[p]);
    }
    return ok;
}

/* ---- the graph: CLDR's signs, their names and keywords ---- */

/* The next <annotation ...>TEXT</annotation> of CLDR's XML, whose attributes and text are left between *attributes and the result's length. */
static const char *next_annotation(const char **at, const char **attributes, size_t *length)
{
    const char *open = strstr(*at, "<annotation ");
    const char *begin = open ? strchr(open, '>') : NULL, *end = begin ? strchr(begin, '<') : NULL;
    if (!end)
        return NULL;
    *attributes = open;
    *at = end;
    *length = (size_t)(end - begin - 1);
    return begin + 1;
}

static char *read_signs(const char *place, const char *code)
{
    size_t length;
    char *path = cb_format("%s/annotations/%s.xml", place, code), *text = path ? cb_file_read(path, 1 << 24, &length) : NULL;
    cb_free(path);
    return text;
}

/* The English name of the sign whose attributes these are ("<annotation cp=..."), or NULL. */
static char *english_name(const char *english, const char *attributes)
{
    const char *quote = strchr(attributes, '"'), *close = quote ? strchr(quote + 1, '"') : NULL;
    char *wanted = close ? cb_format("%.*s\" type=\"tts\">", (int)(close - attributes), attributes) : NULL;
    const char *found = wanted ? strstr(english, wanted) : NULL, *begin = found ? found + strlen(wanted) : NULL;
    cb_free(wanted);
    return begin ? cb_strndup(begin, strcspn(begin, "<")) : NULL;
}

static bool add_sentence(line_list *lines, const char *subject, const char *relation, const char *object)
{
    cb_string line = {0};
    bool ok = strcmp(subject, object) == 0 ||
              (cb_verbalize_triple(subject, cb_relation_phrase(relation), object, &line) && line_list_add(lines, line.data, line.length));
    cb_string_free(&line);
    return ok;
}

/* Keywords are related to the name that follows them, and that means what the English one does. */
static bool add_sign(line_list *lines, const char *english, const char *attributes, const char *name, size_t length, char *keywords)
{
    char *own = cb_strndup(name, length), *other = own && english ? english_name(english, attributes) : NULL, *rest = keywords;
    bool ok = own && (!other || add_sentence(lines, own, "Synonym", other));
    for (char *word = keywords ? strsep(&rest, "|") : NULL; ok && word; word = strsep(&rest, "|")) {
        word += strspn(word, " ");
        size_t end = strlen(word);
        while (end && word[end - 1] == ' ')
            word[--end] = 0;
        ok = !end || add_sentence(lines, word, "RelatedTo", own);
    }
    cb_free(own);
    cb_free(other);
    return ok;
}

static bool add_graph(const char *place, const language *l, line_list *lines)
{
    bool foreign = strcmp(l->signs, "en") != 0;
    char *text = read_signs(place, l->signs), *english = text && foreign ? read_signs(place, "en") : NULL, *keywords = NULL;
    const char *at = text, *attributes, *found;
    size_t length;
    bool ok = text && (english || !foreign);
    while (ok && (found = next_annotation(&at, &attributes, &length))) {
        bool name = memmem(attributes, (size_t)(found - attributes), "type=\"tts\"", 10);
        ok = !name || add_sign(lines, english, attributes, found, length, keywords);
        cb_free(keywords);
        keywords = ok && !name ? cb_strndup(found, length) : NULL;
    }
    cb_free(keywords);
    cb_free(text);
    cb_free(english);
    return ok && cb_ok();
}

static bool write_graph(const cb_run *run, const char *place, const language *l)
{
    line_list lines = {0};
    char *path = shared_path(run, l->code, "graph.txt");
    bool ok = path && (place ? add_graph(place, l, &lines) : add_sentence(&lines, "the river", "IsA", "an old house"));
    ok = ok && line_list_write(&lines, path);
    line_list_free(&lines);
    cb_free(path);
    return ok;
}

/* ---- the tasks ---- */

static bool put_topic(cb_writer *w, const char *line, size_t length)
{
    const char *first = memchr(line, '\t', length), *second = first ? memchr(first + 1, '\t', (size_t)(line + length - first - 1)) : NULL;
    if (!second)
        return true;
    json_t *object = json_pack("{s:s%, s:s%}", "text", second + 1, (size_t)(line + length - second - 1), "label", first + 1,
                               (size_t)(second - first - 1));
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    bool ok = text ? cb_writer_printf(w, "%s\n", text) : cb_fail(CB_ERR_FORMAT, "topics: found a line that is no UTF-8") == CB_OK;
    free(text);
    json_decref(object);
    return ok;
}

/* Lines of a table after its first one, as JSONL with labels; also, where wanted, as plain lines. */
static bool write_topics(const char *from, const char *to, const char *sentences)
{
    size_t length;
    char *text = cb_archive_read(from, NULL, 0, &length);
    cb_writer *w = text ? cb_writer_open(to) : NULL;
    line_list lines = {0};
    bool ok = w;
    const char *at = ok ? strchr(text, '\n') : NULL;
    for (const char *end; ok && at && at[1]; at = end) {
        end = strchr(at + 1, '\n');
        size_t size = end ? (size_t)(end - at - 1) : strlen(at + 1);
        const char *tab = memrchr(at + 1, '\t', size);
        ok = put_topic(w, at + 1, size) &&
             (!sentences || !tab || lines.count == JUDGED || line_list_add(&lines, tab + 1, (size_t)(at + 1 + size - tab - 1)));
    }
    ok = ok && (!sentences || line_list_write(&lines, sentences));
    if (ok)
        ok = cb_writer_commit(w);
    else
        cb_writer_abort(w);
    line_list_free(&lines);
    cb_free(text);
    return ok;
}

static bool made_up_topics(const cb_run *run, const char *code)
{
    static const char text[] = "{\"text\": \"the old river\", \"label\": \"travel\"}\n{\"text\": \"a house\", \"label\": \"health\"}\n";
    bool ok = true;
    for (int part = 0; ok && part < 3; part++) {
        static const char *const names[] = {"topics-train.jsonl", "topics-test.jsonl", "flores.txt"};
        char *path = shared_path(run, code, names[part]);
        ok = path && (part < 2 ? cb_file_write(path, text, sizeof text - 1) : cb_file_write(path, "the old house\n", 14));
        cb_free(path);
    }
    return ok;
}

static bool prepare_topics(const cb_run *run, const language *l)
{
    if (!l->topics || run->quick)
        return !l->topics || made_up_topics(run, l->code);
    char *plain = cb_format("%s/crosslingual/sib200/%s/train.tsv", run->data, l->topics),
         *packed = plain ? cb_format("%s.gz", plain) : NULL,
         *judged = cb_format("%s/crosslingual/sib200/%s/test.tsv", run->data, l->topics);
    char *train = shared_path(run, l->code, "topics-train.jsonl"), *test = shared_path(run, l->code, "topics-test.jsonl"),
         *sentences = shared_path(run, l->code, "flores.txt");
    bool ok = packed && judged && train && test && sentences && write_topics(cb_is_file(plain) ? plain : packed, train, NULL) &&
              write_topics(judged, test, sentences);
    cb_free(plain);
    cb_free(packed);
    cb_free(judged);
    cb_free(train);
    cb_free(test);
    cb_free(sentences);
    return ok;
}

/* The first sentences of a file of CoNLL's form: up to the most-th empty line. */
static bool write_names(const cb_run *run, const language *l, const char *part, size_t most)
{
    char *archive = run->quick ? cb_strdup("") : cb_format("%s/crosslingual/ner/%s.zip", run->data, l->names);
    char *member = cb_format("%s/%s.txt", l->names, part), *name = cb_format("names-%s.conll", part);
    char *path = name ? shared_path(run, l->code, name) : NULL;
    size_t length, count = 0;
    char *text = !archive || !member ? NULL
                 : run->quick        ? cb_strdup("the O\nriver B-LOC\n\n")
                                     : cb_archive_read(archive, member, 0, &length);
    char *at = text;
    while (at && count < most && (at = strstr(at, "\n\n"))) {
        at += 2;
        count++;
    }
    bool ok = text && path && cb_file_write(path, text, at ? (size_t)(at - text) : strlen(text));
    cb_free(archive);
    cb_free(member);
    cb_free(name);
    cb_free(path);
    cb_free(text);
    return ok;
}

static bool prepare(const cb_run *run)
{
    char *place = run->quick ? NULL : data_set_need("cldr");
    bool ok = (run->quick || place) && encoder_prepare(run);
    for (int i = 0; ok && i < LANGUAGES; i++) {
        const language *l = &languages[i];
        ok = write_text(run, l->code) && write_graph(run, place, l) && prepare_topics(run, l) &&
             (!l->names || (write_names(run, l, "train", 600) && write_names(run, l, "test", 300)));
    }
    cb_free(place);
    return ok;
}

/* ---- stage 1 ---- */

typedef struct place {
    const cb_run *run;
    const plan *plan;
    char *base;
    cb_tokenizer *tokenizer;
} place;

typedef struct learned {
    char *directory; /* of the adapter or the model; NULL: the base as it is */
    double held_out[JUDGED], flores[JUDGED];
    size_t held_out_count, flores_count;
    int64_t parameters;
} learned;

static cb_adapter *load_adapter(const char *directory, cb_model *model)
{
    return cb_adapter_load(directory, cb_model_root(model), cb_model_type(model));
}

static bool is_full(const plan *p)
{
    return p->kind && strcmp(p->kind, "full") == 0;
}

static bool learn(const place *p, const char *code, const char *output)
{
    const cb_run *run = p->run;
    bool whole = is_full(p->plan);
    char *text = shared_path(run, code, p->plan->source == TEXT ? "text.txt" : "graph.txt");
    cb_model *model = text ? encoder_open_words(p->base) : NULL;
    cb_adapter *adapter = model && !whole ? cb_adapter_new(p->plan->kind, "language") : NULL;
    bool ok =
        model && (whole || (adapter && cb_adapter_set_json(adapter, "plan", p->plan->options) && cb_adapter_set_task_type(adapter, NULL) &&
                            cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 1)));
    const encoder_training t = {.text = text,
                                .output = output,
                                .steps = run->quick ? 2 : 120,
                                .batch_size = run->quick ? 2 : 8,
                                .learning_rate = run->value,
                                .seed = 1};
    ok = ok && encoder_adapt(model, adapter, p->tokenizer, &t);
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_free(text);
    return ok;
}

static size_t judge_sentences(const place *p, cb_model *model, const char *code, const char *name, double *logs)
{
    cb_encodings sentences = {0};
    cb_pseudo_perplexity r;
    cb_string_list files = {0};
    char *path = shared_path(p->run, code, name);
    bool ok = path && cb_string_list_add(&files, path) &&
              cb_encode_sentences(p->tokenizer, &files, p->run->quick ? 2 : JUDGED, 64, &sentences) &&
              cb_evaluate_pseudo_perplexity(model, cb_tokenizer_mask(p->tokenizer), sentences.items, sentences.count, 64, logs, &r);
    size_t count = ok ? sentences.count : 0;
    for (size_t i = 0; i < count; i++)
        logs[i] = log(logs[i]);
    cb_encodings_free(&sentences);
    cb_string_list_free(&files);
    cb_free(path);
    return count;
}

static bool judge(const place *p, const language *l, learned *s)
{
    bool whole = is_full(p->plan);
    cb_model *model = encoder_open_words(whole ? s->directory : p->base);
    cb_adapter *adapter = model && s->directory && !whole ? load_adapter(s->directory, model) : NULL;
    bool ok = model && (adapter || whole || !s->directory);
    s->parameters = !ok ? 0 : adapter ? cb_adapter_parameter_count(adapter) : whole ? cb_model_parameter_count(model) : 0;
    s->held_out_count = ok ? judge_sentences(p, model, l->code, p->run->validation ? "validation.txt" : "held-out.txt", s->held_out) : 0;
    s->flores_count =
        s->held_out_count && l->topics && !p->run->validation ? judge_sentences(p, model, l->code, "flores.txt", s->flores) : 0;
    cb_adapter_free(adapter);
    cb_model_free(model);
    return s->held_out_count && (s->flores_count || !l->topics || p->run->validation);
}

static size_t numbers_of(const json_t *record, const char *name, double *values)
{
    const json_t *list = json_object_get(record, name);
    size_t count = json_array_size(list) < JUDGED ? json_array_size(list) : JUDGED;
    for (size_t i = 0; i < count; i++)
        values[i] = json_number_value(json_array_get(list, i));
    return count;
}

static bool recall(const char *path, learned *s)
{
    json_t *record = cb_is_file(path) ? json_load_file(path, 0, NULL) : NULL;
    if (!record)
        return false;
    s->held_out_count = numbers_of(record, "held_out", s->held_out);
    s->flores_count = numbers_of(record, "flores", s->flores);
    s->parameters = (int64_t)json_integer_value(json_object_get(record, "parameters"));
    json_decref(record);
    return s->held_out_count;
}

static bool put_numbers(cb_writer *w, const char *name, const double *values, size_t count)
{
    bool ok = cb_writer_printf(w, "\"%s\": [", name);
    for (size_t i = 0; ok && i < count; i++)
        ok = cb_writer_printf(w, "%s%.17g", i ? ", " : "", values[i]);
    return ok && cb_writer_printf(w, "], ");
}

static bool remember(const char *path, const learned *s)
{
    cb_writer *w = cb_writer_open(path);
    if (w && cb_writer_printf(w, "{") && put_numbers(w, "held_out", s->held_out, s->held_out_count) &&
        put_numbers(w, "flores", s->flores, s->flores_count) && cb_writer_printf(w, "\"parameters\": %lld}\n", (long long)s->parameters))
        return cb_writer_commit(w);
    cb_writer_abort(w);
    return false;
}

/* Adapted and judged once for each arm, rate and language, and for choosing and judging. */
static bool stage1(const place *p, const language *l, learned *s)
{
    const cb_run *run = p->run;
    size_t arm = (size_t)(run->arm - arms);
    *s = (learned){0};
    char *name = cb_format("arm%zu-%g", arm, run->value), *kept = name ? shared_path(run, l->code, name) : NULL;
    char *record = kept ? cb_format("%s%s.json", kept, run->validation ? "-validation" : "") : NULL,
         *log = kept ? cb_path_join(kept, "log.jsonl") : NULL;
    char *done = kept ? cb_format("%s.done", kept) : NULL;
    if (p->plan->kind)
        s->directory = cb_strdup(kept);
    bool ok = done && log;
    if (ok && !recall(record, s)) {
        if (p->plan->kind && !cb_is_file(done))
            ok = learn(p, l->code, kept) && cb_file_write(done, "", 0);
        ok = ok && judge(p, l, s) && remember(record, s);
    }
    cb_free(name);
    cb_free(kept);
    cb_free(record);
    cb_free(log);
    cb_free(done);
    return ok;
}

/* ---- stage 2 ---- */

typedef struct scores {
    double f1;
    double items[256];
    size_t count;
} scores;

static cb_adapter *task_adapter(cb_model *model, uint64_t seed)
{
    cb_adapter *adapter = cb_adapter_new("bottleneck", "task");
    if (adapter && cb_adapter_set_json(adapter, "task", SEQ_BN) && cb_adapter_fit_labels(adapter, model) &&
        cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), seed)) {
        cb_adapter_set_strength(adapter, 0);
        return adapter;
    }
    cb_adapter_free(adapter);
    return NULL;
}

static bool train_and_judge(const place *p, cb_model *model, const encoder_task *task, const char *code, const char *const files[2],
                            const learned *s, scores *result)
{
    const cb_run *run = p->run;
    cb_adapter *parts[2] = {0};
    bool rows = task->objective == CB_OBJECTIVE_SEQUENCE_CLASSIFICATION;
    size_t frozen = s->directory && !is_full(p->plan) ? 1 : 0;
    char *train = shared_path(run, code, files[0]), *test = shared_path(run, code, files[1]), *output = cb_path_join(run->directory, code);
    bool ok = train && test && output && (!frozen || (parts[0] = load_adapter(s->directory, model)));
    if (frozen && ok)
        cb_adapter_set_strength(parts[0], 0);
    ok = ok && (parts[frozen] = task_adapter(model, 10 * run->seed + 1));
    cb_composition c = {.adapters = parts, .weights = (double[]){1, 1}, .count = frozen + 1};
    const encoder_training t = {.text = train,
                                .output = output,
                                .steps = run->quick ? 2
                                         : rows     ? 440
                                                    : 300,
                                .batch_size = run->quick ? 2 : 8,
                                .learning_rate = 3e-3,
                                .seed = 10 * run->seed + 1};
    cb_metrics m;
    ok = ok && encoder_train_over(model, &c, frozen, p->tokenizer, task, &t) &&
         encoder_metrics(model, p->tokenizer, task, test, &m, 256, rows ? result->items : NULL, &result->count);
    for (int i = 0; ok && i < m.count; i++)
        if (strcmp(m.items[i].name, rows ? "f1_macro" : "f1") == 0)
            result->f1 = m.items[i].value;
    cb_model_set_blend(model, NULL, NULL, NULL);
    cb_adapter_free(parts[1]);
    cb_adapter_free(parts[0]);
    cb_free(train);
    cb_free(test);
    cb_free(output);
    return ok;
}

static bool stage2(const place *p, const language *l, bool names, const learned *s, scores *result)
{
    static const char *const files[][2] = {{"topics-train.jsonl", "topics-test.jsonl"}, {"names-train.conll", "names-test.conll"}};
    cb_string_list labels = {0};
    bool ok = true;
    for (const char *const *label = names ? tags : topics; ok && *label; label++)
        ok = cb_string_list_add(&labels, *label);
    const encoder_task task = {.objective = names ? CB_OBJECTIVE_TOKEN_CLASSIFICATION : CB_OBJECTIVE_SEQUENCE_CLASSIFICATION,
                               .labels = &labels,
                               .sequence_length = 64};
    cb_model *model = ok ? encoder_open(is_full(p->plan) ? s->directory : p->base, &task, 10 * p->run->seed + 1) : NULL;
    ok = model && train_and_judge(p, model, &task, l->code, files[names], s, result);
    cb_model_free(model);
    cb_string_list_free(&labels);
    return ok;
}

/* ---- an arm ---- */

typedef struct tally {
    double held_out[LANGUAGES], topics[LANGUAGES]; /* means of languages; NAN: none */
    double logs[2][LANGUAGES * JUDGED], items[LANGUAGES * 256], names;
    size_t log_count[2], item_count, name_count;
    int64_t parameters;
} tally;

static double mean_of(const double *values, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += values[i];
    return count ? sum / (double)count : NAN;
}

static void add(double *all, size_t *count, const double *values, size_t n)
{
    memcpy(all + *count, values, n * sizeof *values);
    *count += n;
}

/* To choose a rate, and before it (the arm that others go on from, with seed 0), perplexity is all that counts. */
static bool is_of_stage1(const cb_run *run)
{
    return run->validation || run->seed == 0;
}

static bool run_language(const place *p, int index, tally *t)
{
    const language *l = &languages[index];
    learned s;
    scores topic = {0}, name = {0};
    bool ok = stage1(p, l, &s);
    t->topics[index] = NAN;
    if (ok && !is_of_stage1(p->run))
        ok = (!l->topics || stage2(p, l, false, &s, &topic)) && (!l->names || stage2(p, l, true, &s, &name));
    if (ok) {
        t->held_out[index] = mean_of(s.held_out, s.held_out_count);
        t->parameters = s.parameters;
        add(t->logs[0], &t->log_count[0], s.held_out, s.held_out_count);
        add(t->logs[1], &t->log_count[1], s.flores, s.flores_count);
        add(t->items, &t->item_count, topic.items, topic.count);
        t->topics[index] = l->topics ? topic.f1 : NAN;
        t->names += l->names ? name.f1 : 0;
        t->name_count += l->names != NULL;
    }
    cb_free(s.directory);
    return ok;
}

/* What later arms are set against: each language's means. */
static bool write_means(const cb_run *run, const tally *t)
{
    char *path = cb_path_join(run->directory, "means.json");
    cb_writer *w = path ? cb_writer_open(path) : NULL;
    bool ok = w && cb_writer_printf(w, "{");
    for (int i = 0; ok && i < LANGUAGES; i++)
        ok = cb_writer_printf(w, "%s\"%s\": [%.17g, %.17g]", i ? ", " : "", languages[i].code, t->held_out[i],
                              isnan(t->topics[i]) ? -1 : t->topics[i]);
    ok = ok && cb_writer_printf(w, "}\n");
    cb_free(path);
    if (ok)
        return cb_writer_commit(w);
    cb_writer_abort(w);
    return false;
}

/* Spearman's correlations, over languages, of what pre-training had with what the arm gains over none. */
static bool correlate(const cb_run *run, const tally *t, cb_outcome *outcome)
{
    char *path = run->uses ? cb_path_join(run->uses, "means.json") : NULL;
    json_t *means = path && cb_is_file(path) ? json_load_file(path, 0, NULL) : NULL;
    double share[LANGUAGES], gain[LANGUAGES], topic_share[LANGUAGES], topic_gain[LANGUAGES];
    size_t n = 0;
    for (int i = 0; means && i < LANGUAGES; i++) {
        const json_t *pair = json_object_get(means, languages[i].code);
        share[i] = (double)language_kilobytes(languages[i].code);
        gain[i] = json_number_value(json_array_get(pair, 0)) - t->held_out[i];
        if (isnan(t->topics[i]))
            continue;
        topic_share[n] = share[i];
        topic_gain[n++] = t->topics[i] - json_number_value(json_array_get(pair, 1));
    }
    bool ok = cb_ok() && (!means || run->quick ||
                          (cb_outcome_value(outcome, PPL_RHO, cb_spearman(share, gain, LANGUAGES)) &&
                           cb_outcome_value(outcome, F1_RHO, cb_spearman(topic_share, topic_gain, n))));
    json_decref(means);
    cb_free(path);
    return ok;
}

static bool report(const cb_run *run, const tally *t, cb_outcome *outcome)
{
    cb_outcome_parameters(outcome, t->parameters);
    if (!cb_outcome_items(outcome, PPL, t->logs[0], t->log_count[0]))
        return false;
    if (is_of_stage1(run))
        return true;
    double sum = 0;
    int count = 0;
    for (int i = 0; i < LANGUAGES; i++)
        if (!isnan(t->topics[i])) {
            sum += t->topics[i];
            count++;
        }
    return cb_outcome_items(outcome, FLORES, t->logs[1], t->log_count[1]) && cb_outcome_value(outcome, TOPIC_F1, sum / count) &&
           cb_outcome_items(outcome, TOPIC_ACC, t->items, t->item_count) &&
           cb_outcome_value(outcome, NAME_F1, t->names / (double)t->name_count) && write_means(run, t) && correlate(run, t, outcome);
}

static bool run_arm(const cb_run *run, cb_outcome *outcome)
{
    place p = {.run = run, .plan = run->arm->settings, .base = encoder_base(run)};
    tally *t = cb_calloc(1, sizeof *t);
    bool ok = t && p.base && (p.tokenizer = cb_tokenizer_load(p.base));
    for (int i = run->validation ? TUNED : 0; ok && i < (run->validation ? TUNED + 1 : LANGUAGES); i++)
        ok = run_language(&p, i, t);
    ok = ok && report(run, t, outcome);
    cb_tokenizer_free(p.tokenizer);
    cb_free(p.base);
    cb_free(t);
    return ok;
}

static const char *const data[] = {"text-bible", "text-en", "crosslingual", NULL};

const cb_experiment experiment_small_models = {
    .name = "small-models-big-impact",
    .system = 50,
    .title = "Small Models, Big Impact: language adapters from text and from graphs",
    .claim = "Small adapters trained by masked language modelling on little text, or on a knowledge graph put into words, make a small "
             "multilingual "
             "encoder better in a language, by itself and under a task's adapter; as good as training all weights.",
    .setting =
        "The zoo's multilingual encoder (4 blocks of width 256); six languages with 8,000 to 100 kB of its pre-training; 120 steps of 8 "
        "rows "
        "of 128 tokens of other text (at most 600 kB), or of CLDR's names and keywords of signs put into sentences, for each language, "
        "once "
        "for all seeds; rates chosen in Swahili. Then a bottleneck and a head on top: SIB-200's topics (5 languages, 400 steps of 8), "
        "MasakhaNER's names (4 languages, 300 steps of 8; not for commercial use). Pseudo-perplexity of 30 held-out lines a language, "
        "and of 30 sentences of FLORES, each "
        "cut "
        "at 64 tokens.",
    .data = data,
    .seeds = 3,
    .measures = measures,
    .arms = arms,
    .comparisons = comparisons,
    .prepare = prepare,
    .run = run_arm};
