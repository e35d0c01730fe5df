/* retrieval.h: floor 5: sentence encoders that learn to find texts, and how well they do.
 *
 *     cb_trainee what = cb_train_adapter(cb_embedder_model(e), adapter);
 *     cb_sentence_training pairs = {.embedder = e, .options = options};
 *     cb_train_sentences(&what, &pairs) && cb_train(&what, data, NULL, &train, NULL, NULL, &result);      data: cb_dataset_open_groups() */
#ifndef CAMBIUM_RETRIEVAL_H
#define CAMBIUM_RETRIEVAL_H

#include "cambium/embedding.h"
#include "cambium/training.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- learning ---- */

typedef enum cb_similarity_loss { CB_SIMILARITY_COSENT, CB_SIMILARITY_MSE } cb_similarity_loss;

typedef struct cb_sentence_options {
    double similarity_scale; /* of similarities, one over the temperature; 0: 20, and 1 of products that are no cosines */
    bool symmetric;          /* anchors are found by their positives as well */
    int similarity_loss;     /* of scored sentences: index into cb_similarity_loss */
    int64_t mini_batch_size; /* texts that go through the model at once; 0: all of a batch */
} cb_sentence_options;
extern CB_API const cb_option cb_sentence_option_table[];

/* What is minimised over groups of texts: of an anchor, its positive and hard negatives cb_ranking_loss() by the encoder's similarity, of two
 * sentences with a score cb_cosent_loss() or the mean square between cosine and score.  With a mini_batch_size a batch's texts go through the model
 * in parts, forward and again backward: the loss and its gradient are those of the whole batch, memory is that of a part and the batch's vectors
 * (GradCache: Gao et al. 2021, arXiv:2101.06983).  Zero what is not said. */
typedef struct cb_sentence_training {
    const cb_embedder *embedder;
    cb_sentence_options options;
    bool scored;
    bool (*save)(const cb_trainee *what, const char *directory); /* set by cb_train_sentences(): of the adapter alone */
    char *(*describe)(const cb_trainee *what);
} cb_sentence_training;
/* Makes it the objective of `what`, an adapter of the embedder's model, which is then saved together with what sentence-transformers needs to
 * load it, and judged on held-out groups by
 *     ranking  ndcg_at_10, mrr_at_10, recall_at_10: each anchor among all positives and hard negatives that are held out
 *     scores   spearman, pearson
 * CB_ERR_UNSUPPORTED among several processes: a batch is one.  *training must outlive it. */
CB_API bool cb_train_sentences(cb_trainee *what, cb_sentence_training *training);
/* Loss and these metrics; at most `max_batches` batches (0: all). */
CB_API bool cb_evaluate_sentences(const cb_sentence_training *training, cb_dataset *data, int64_t batch_size, int64_t max_batches,
                                  cb_evaluation *result);

/* ---- how well documents are found ---- */

/* A document's grade for a query. */
typedef struct cb_judgement {
    size_t query, document; /* document CB_NO_DOCUMENT: not in the corpus */
    int32_t grade;          /* above 0: relevant */
} cb_judgement;
#define CB_NO_DOCUMENT SIZE_MAX

typedef struct cb_retrieval_data {
    cb_string_list query_ids, queries, document_ids, documents;
    cb_judgement *judgements; /* by query */
    size_t judgement_count, judgement_capacity;
    size_t *own; /* of each query: the document that has its id, or CB_NO_DOCUMENT */
} cb_retrieval_data;
/* Reads the files of BEIR (Thakur et al. 2021, arXiv:2104.08663), packed or not: JSON lines of documents {"_id", "title", "text"}, whose title
 * goes before the text, and of queries {"_id", "text"}; and judgements, a line each of query, document and grade, which tabs separate,
 * behind a header, or TREC's query, 0, document, grade.  A judgement of an unknown query is CB_ERR_FORMAT, one of a document that is not
 * there counts as relevant and not found.  Free `data`, also on failure. */
CB_API bool cb_retrieval_read(const char *corpus, const char *queries, const char *judgements, cb_retrieval_data *data);
CB_API void cb_retrieval_free(cb_retrieval_data *data);

typedef struct cb_retrieval_options {
    const char *query_prompt, *document_prompt;                   /* NULL: the model's (cb_embedder_query_prompt(), ...) */
    int64_t batch_size;                                           /* texts per forward pass; 0: 32 */
    void (*progress)(void *user, size_t documents, size_t count); /* may be NULL */
    void *user;
} cb_retrieval_options;
typedef struct cb_retrieval_result {
    cb_metrics metrics;        /* ndcg_at_10, mrr_at_10, map_at_100, recall_at_10, recall_at_100, precision_at_10 */
    size_t queries, documents; /* queries: those that a document is relevant for, of which these are means */
    double seconds;
} cb_retrieval_result;
/* Every document is compared with every query, in blocks: neither vectors of all documents nor all products are kept.  A document that
 * has a query's own id is left out for it, as BEIR does. */
CB_API bool cb_evaluate_retrieval(cb_embedder *e, const cb_retrieval_data *data, const cb_retrieval_options *options,
                                  cb_retrieval_result *result);

/* ---- ranking by a cross-encoder ---- */

typedef enum cb_ranking_objective { CB_RANKING_BCE, CB_RANKING_LISTWISE } cb_ranking_objective;
typedef struct cb_ranking_options {
    int ranking_loss; /* index into cb_ranking_objective */
    double positive_weight;
} cb_ranking_options;
extern CB_API const cb_option cb_ranking_option_table[];

/* What is minimised over pairs (cb_groups_options): a model that reads a query together with a document and gives one number, the logit of
 * relevance, learns each document's label (binary cross-entropy, as sentence-transformers' BinaryCrossEntropyLoss), or which of a group is the
 * positive one (softmax cross-entropy over the group: Gao et al. 2021, arXiv:2101.08751).  Zero what is not said. */
typedef struct cb_ranking_training {
    cb_model *model; /* one label */
    cb_ranking_options options;
    bool (*save)(const cb_trainee *what, const char *directory); /* set by cb_train_ranking(): of the adapter alone */
    char *(*describe)(const cb_trainee *what);
} cb_ranking_training;
/* Makes it the objective of `what`, an adapter of the model.  CB_ERR_UNSUPPORTED among several processes.  *training must outlive it. */
CB_API bool cb_train_ranking(cb_trainee *what, cb_ranking_training *training);
/* Loss, predictions (rows, G), and
 *     ndcg_at_10, mrr_at_10, map_at_100  means over the queries with documents of both kinds (label at least one half, or less), each ranked
 *                                        among all that the data has of the query; of documents with equal scores the irrelevant come first
 *     average_precision                  of all pairs, where they have labels
 * At most `max_batches` batches (0: all). */
CB_API bool cb_evaluate_ranking(const cb_ranking_training *training, cb_dataset *data, int64_t batch_size, int64_t max_batches,
                                cb_evaluation *result);

/* What a first stage found for each query: documents[starts[q]], ..., best first. */
typedef struct cb_candidates {
    size_t *documents, *starts; /* starts: one more than queries */
} cb_candidates;
/* Reads TREC's run format (query, Q0, document, rank, score, name) or two or three columns, query, document and score; without scores in the
 * order of the lines.  Queries that `data` has not are passed over; a document that it has not is CB_ERR_FORMAT.  Free, also on failure. */
CB_API bool cb_candidates_read(const char *path, const cb_retrieval_data *data, cb_candidates *candidates);
/* By BM25 (Robertson and Zaragoza 2009; Lucene's form, k1 0.9, b 0.4) over lower-case words, without stemming and stop words: the `most` best
 * documents of each query that have a word of it. */
CB_API bool cb_candidates_search(const cb_retrieval_data *data, size_t most, cb_candidates *candidates);
CB_API void cb_candidates_free(cb_candidates *candidates);

typedef struct cb_reranking_options {
    size_t most;                                                                /* candidates of a query that are judged; 0: all */
    int64_t batch_size, max_tokens;                                             /* pairs per forward pass; tokens of a pair */
    void (*progress)(void *user, size_t queries, size_t count);                 /* may be NULL */
    bool (*ranked)(void *user, size_t query, const cb_hit *hits, size_t count); /* what it came to, best first; may be NULL */
    void *user;
} cb_reranking_options;
typedef struct cb_reranking_result {
    cb_metrics metrics, first; /* as of cb_evaluate_retrieval(): of the model, and of the order in which the candidates came */
    size_t queries, pairs;
    double seconds;
} cb_reranking_result;
/* Orders each query's candidates by what the model (one label) says of query and document together. */
CB_API bool cb_evaluate_reranking(cb_model *model, const cb_tokenizer *tokenizer, const cb_retrieval_data *data,
                                  const cb_candidates *candidates, const cb_reranking_options *options, cb_reranking_result *result);

#ifdef __cplusplus
}
#endif
#endif
