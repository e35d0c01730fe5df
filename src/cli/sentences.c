/* sentences.c: training a sentence encoder, as `train --task retrieval` and `--task similarity` have it: its options, and the groups of texts
 * that it learns from. */
#include <string.h>

#include "cli/cli.h"

#define OPT cli_sentence_settings
const cb_option cli_sentence_table[] = {
    CB_OPT_INT(OPT, hard_negatives, -1, -1, 1024, "negatives that are used of each line (-1: as many as the first line has)"),
    CB_OPT_INT(OPT, random_negatives, 0, 0, 1024, "ranking: documents of other lines that each query gets beside its own negatives"),
    CB_OPT_BOOL(OPT, batch_duplicates, 0, "let a text stand twice in a batch, where it is called a wrong answer to its own question"),
    CB_OPT_STRING(OPT, query_prompt, NULL, "TEXT", "what is put before queries (anchors), instead of the model's prompt for them"),
    CB_OPT_STRING(OPT, document_prompt, NULL, "TEXT", "the same for documents (positives and negatives)"),
    CB_OPT_END};
#undef OPT

/* Which options are of which task, and which of words and labels alone. */
enum { OF_SENTENCES = 1, OF_RANKING = 2, OF_OTHERS = 4 };
static const struct {
    const char *option;
    int tasks;
} own[] = {{"hard_negatives", OF_SENTENCES | OF_RANKING},
           {"random_negatives", OF_RANKING},
           {"ranking_loss", OF_RANKING},
           {"positive_weight", OF_RANKING},
           {"batch_duplicates", OF_SENTENCES},
           {"query_prompt", OF_SENTENCES},
           {"document_prompt", OF_SENTENCES},
           {"similarity_scale", OF_SENTENCES},
           {"symmetric", OF_SENTENCES},
           {"similarity_loss", OF_SENTENCES},
           {"mini_batch_size", OF_SENTENCES},
           {"separator", OF_OTHERS},
           {"lines", OF_OTHERS},
           {"packing", OF_OTHERS},
           {"packing_strategy", OF_OTHERS},
           {"completion_only", OF_OTHERS},
           {"chat_template", OF_OTHERS},
           {"add_bos", OF_OTHERS},
           {"add_eos", OF_OTHERS},
           {"mlm_probability", OF_OTHERS},
           {"whole_word_mask", OF_OTHERS},
           {"pad_to_multiple_of", OF_OTHERS},
           {"labels", OF_OTHERS},
           {"mix", OF_OTHERS},
           {"tokenizer", OF_OTHERS | OF_RANKING}};

bool cli_sentences_check(cli_call *call, cb_objective objective)
{
    bool sentences = objective == CB_OBJECTIVE_RETRIEVAL || objective == CB_OBJECTIVE_SIMILARITY;
    int task = sentences ? OF_SENTENCES : objective == CB_OBJECTIVE_RANKING ? OF_RANKING : OF_OTHERS;
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        if (cli_given(call, own[i].option) && !(own[i].tasks & task)) {
            bool missing = task != OF_OTHERS && own[i].tasks & OF_OTHERS;
            cli_refuse("%s: %s --task %s", own[i].option, missing ? "has no meaning for" : "is an option of",
                       missing                      ? sentences ? "retrieval or similarity" : "ranking"
                       : own[i].tasks == OF_RANKING ? "ranking"
                       : own[i].tasks & OF_RANKING  ? "retrieval, similarity or ranking"
                                                    : "retrieval or similarity");
            cli_blame(call, own[i].option);
            return false;
        }
    return true;
}

/* ---- texts ---- */

typedef struct prompts {
    const cb_embedder *e;
    const char *query, *document;
} prompts;

static bool encode(void *user, int role, const char *text, cb_encoding *out, int32_t *skipped)
{
    const prompts *p = user;
    return cb_embedder_encode(p->e, role == 0 ? p->query : p->document, text, out, skipped);
}

/* Both sentences of a pair with a score are alike. */
static prompts prompts_of(const cli_sentence_settings *s, const cb_embedder *e, bool scored)
{
    const char *usual = cb_embedder_default_prompt(e);
    return (prompts){.e = e,
                     .query = s->query_prompt ? s->query_prompt
                              : scored        ? usual
                                              : cb_embedder_query_prompt(e),
                     .document = s->document_prompt ? s->document_prompt
                                 : scored           ? usual
                                                    : cb_embedder_document_prompt(e)};
}

cb_dataset *cli_sentences_read(const cb_string_list *files, const cb_data_options *text, const cli_sentence_settings *s,
                               const cb_embedder *e, bool scored, bool held_out)
{
    prompts p = prompts_of(s, e, scored);
    const cb_groups_options options = {.data = *files,
                                       .columns = text->columns,
                                       .max_records = held_out ? 0 : text->max_records,
                                       .hard_negatives = s->hard_negatives,
                                       .scored = scored,
                                       .duplicates = s->batch_duplicates || held_out,
                                       .shuffle = text->shuffle && !held_out,
                                       .seed = text->seed,
                                       .encode = encode,
                                       .user = &p};
    return cb_dataset_open_groups(&options);
}

bool cli_sentences_open(cli_corpus *corpus, cli_call *call, cli_corpus_settings *settings, const cli_sentence_settings *s, cb_embedder *e,
                        int64_t seed)
{
    bool scored = cli_task_objective(cli_task_names[settings->asked.task]) == CB_OBJECTIVE_SIMILARITY;
    cb_data_options *text = &settings->text;
    *corpus = (cli_corpus){0};
    if (settings->validation_data.count && settings->validation_split > 0)
        return cli_usage(call, "--validation-data and --validation-split exclude each other");
    if (cli_given(call, "sequence_length") && !cb_embedder_set_max_tokens(e, text->sequence_length)) {
        cb_error_prefix("sequence_length");
        cli_blame(call, "sequence_length");
        return false;
    }
    text->seed = (uint64_t)seed;
    corpus->train = cli_sentences_read(&settings->data, text, s, e, scored, false);
    if (!corpus->train)
        return false;
    if (settings->validation_split > 0)
        corpus->validation = cb_dataset_split(corpus->train, settings->validation_split, (uint64_t)seed);
    else if (settings->validation_data.count)
        corpus->validation = cli_sentences_read(&settings->validation_data, text, s, e, scored, true);
    else
        return true;
    return corpus->validation;
}
