/* verbalize.c: `cambium data verbalize`: a knowledge graph as text to adapt a masked language model on. */
#include "cli/cli.h"

typedef struct settings {
    char *output;
    int64_t seed;
    cb_string_list data;
    cb_verbalize_options verbalize;
} settings;

static const cb_option table[] = {
    CB_OPT_LIST(
        settings, data, NULL, "FILE,...",
        "triples: JSONL, JSON, CSV or TSV with subject, relation, object and, where wanted, language; or ConceptNet's dump, unpacked"),
    CB_OPT_STRING(settings, output, NULL, "DIR", "train.txt, validation.txt and test.txt, a sentence a line"),
    CB_OPT_INT(settings, seed, 0, 0, 9e15, "seed of their order, and so of which sentence is in which file"), CB_OPT_END};

static const cli_group groups[] = {{"Files", table, 0}, {"Sentences", cb_verbalize_option_table, offsetof(settings, verbalize)}, {0}};

static bool print(cli_call *call, const char *output, const cb_verbalize_result *r)
{
    if (call->common.json)
        return cli_json(json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "output", output, "triples", (json_int_t)r->triples, "loops",
                                  (json_int_t)r->loops, "duplicates", (json_int_t)r->duplicates, "other_languages",
                                  (json_int_t)r->other_languages, "train", (json_int_t)r->train, "validation", (json_int_t)r->validation,
                                  "test", (json_int_t)r->test));
    cli_field("triples", "%s", cli_thousands(r->triples));
    cli_field("left out", "%s loops, %s duplicates, %s of other languages", cli_thousands(r->loops), cli_thousands(r->duplicates),
              cli_thousands(r->other_languages));
    cli_field("sentences", "%s to train on, %s for validation, %s for a test", cli_thousands(r->train), cli_thousands(r->validation),
              cli_thousands(r->test));
    cli_field("output", "%s", output);
    return true;
}

static bool run(cli_call *call, void *settings_)
{
    settings *s = settings_;
    cb_verbalize_result r;
    cb_verbalize_options options = s->verbalize;
    options.data = s->data;
    options.seed = (uint64_t)s->seed;
    cli_corpus_settings inputs = {.data = s->data};
    return cli_output_directory(s->output, NULL) && cli_output_apart(s->output, &inputs) && cb_verbalize(&options, s->output, &r) &&
           print(call, s->output, &r);
}

const cli_command cli_data_verbalize = {
    .name = "data verbalize",
    .summary = "put a knowledge graph into words, to adapt a masked language model on",
    .synopsis = "--data FILE,... --output DIR [options]",
    .description =
        "A triple becomes the line \"subject phrase object.\", with an English phrase for each of ConceptNet's relations (Synonym: is "
        "a synonym of). Triples of a thing with itself are left out, as are sentences that are there already; the rest is "
        "shuffled and divided. Of ConceptNet's dump, conceptnet-assertions-5.7.0.csv unpacked, --language takes one of the "
        "languages.",
    .least = 0,
    .most = 0,
    .settings_size = sizeof(settings),
    .groups = groups,
    .required = (const char *const[]){"data", "output", NULL},
    .examples =
        (const char *const[]){"cambium data verbalize --data conceptnet-assertions-5.7.0.csv --language sw --output out/swahili",
                              "cambium data verbalize --data words.tsv --phrases TranslationOf=\"is a translation of\" --output out/words",
                              NULL},
    .run = run};
