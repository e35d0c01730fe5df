/* test_data.c: from text to batches: which ids stand where, what is predicted, what is kept apart, and what is refused.
 * Expected ids are those of a tokenizer that makes every character a token (text_fixtures.h). */
#include "text_fixtures.h"

/* ---- helpers ---- */

static const int32_t *row_of(const cb_tensor *t, int64_t row)
{
    return (const int32_t *)t->data + row * t->shape[1];
}

/* The row as text: characters, < and > for bos and eos, and _ for nothing (-100, or padding when `segments` is given). */
static const char *text_of(const int32_t *ids, int64_t n, const int32_t *segments)
{
    static char ring[8][256];
    static unsigned turn;
    char *text = ring[turn++ % 8];
    for (int64_t i = 0; i < n; i++) {
        bool none = ids[i] == -100 || (segments && segments[i] < 0);
        text[i] = none                ? '_'
                  : ids[i] == ID_BOS  ? '<'
                  : ids[i] == ID_EOS  ? '>'
                  : ids[i] == 98      ? '&' /* the merged "ab" */
                  : ids[i] < ID_SPACE ? (char)(ids[i] + 33)
                                      : " |"[ids[i] - ID_SPACE];
    }
    text[n] = '\0';
    return text;
}

static void assert_row(const cb_batch *batch, int64_t row, const char *ids, const char *targets)
{
    int64_t n = batch->ids->shape[1];
    assert_string_equal(text_of(row_of(batch->ids, row), n, row_of(batch->segments, row)), ids);
    assert_string_equal(text_of(row_of(batch->targets, row), n, NULL), targets);
}

static cb_dataset *open_data(const cb_tokenizer *tokenizer, const cb_data_options *options)
{
    cb_dataset *data = cb_dataset_open(tokenizer, options);
    assert_ok();
    assert_non_null(data);
    return data;
}

static void refuse_data(const cb_tokenizer *tokenizer, const char *path, cb_status status, const char *part)
{
    cb_data_options o = data_options(path);
    uint64_t before = cb_memory().live_bytes;
    cb_dataset *data = cb_dataset_open(tokenizer, &o);
    if (data)
        fail_msg("%s was taken", path);
    if (cb_error_status() != status || !strstr(cb_error_message(), part))
        fail_msg("%s: status %d, \"%s\"; expected \"%s\"", path, cb_error_status(), cb_error_message(), part);
    cb_error_clear();
    if (cb_memory().live_bytes != before)
        fail_msg("%s: %lld bytes were left", path, (long long)(cb_memory().live_bytes - before));
    data_options_free(&o);
}

/* ---- rows ---- */

static void packed_rows_keep_documents_apart(void **state)
{
    (void)state;
    cb_tokenizer *tokenizer = characters(false, true);
    cb_data_options o = data_options(write_file("three.txt", "abc\nde\n\nfghijkl\n"));
    o.lines = true;
    o.shuffle = false;
    o.sequence_length = 6;
    cb_dataset *data = open_data(tokenizer, &o);
    assert_int_equal(cb_dataset_documents(data), 3);
    assert_int_equal(cb_dataset_tokens(data), 5 + 4 + 9);
    assert_int_equal(cb_dataset_rows(data), 3);
    cb_batch batch = {0};
    assert_true(cb_dataset_batch(data, 0, 3, &batch));
    /* <abc> <de> <fghijkl>: nothing follows an end, and a row's last token is followed by the next row's first */
    assert_row(&batch, 0, "<abc><", "abc>_d");
    assert_row(&batch, 1, "de><fg", "e>_fgh");
    assert_row(&batch, 2, "hijkl>", "ijkl>_");
    static const int32_t segments[3][6] = {{0, 0, 0, 0, 0, 1}, {0, 0, 0, 1, 1, 1}, {0, 0, 0, 0, 0, 0}};
    static const int32_t positions[3][6] = {{0, 1, 2, 3, 4, 0}, {0, 1, 2, 0, 1, 2}, {0, 1, 2, 3, 4, 5}};
    assert_memory_equal(batch.segments->data, segments, sizeof segments);
    assert_memory_equal(batch.positions->data, positions, sizeof positions);
    assert_int_equal(batch.tokens, 18);
    assert_int_equal(batch.predicted, 15);
    assert_true(fabs(cb_dataset_bytes_per_token(data) - 12. / 18) < 1e-12);
    cb_batch_free(&batch);
    cb_dataset_free(data);
    data_options_free(&o);
    cb_tokenizer_free(tokenizer);
}

static void without_packing_every_document_begins_a_row(void **state)
{
    (void)state;
    cb_tokenizer *tokenizer = characters(false, true);
    cb_data_options o = data_options(write_file("three.txt", "abc--fghijkl--de"));
    o.separator = strdup("--");
    o.shuffle = o.packing = false;
    o.sequence_length = 5;
    cb_dataset *data = open_data(tokenizer, &o);
    free(o.separator);
    o.separator = NULL;
    assert_int_equal(cb_dataset_rows(data), 4);
    cb_batch batch = {0};
    assert_true(cb_dataset_batch(data, 0, 4, &batch));
    assert_row(&batch, 0, "<abc>", "abc>_");
    assert_row(&batch, 1, "<fghi", "fghij"); /* the last target stands in the next row */
    assert_row(&batch, 2, "jkl>_", "kl>__");
    assert_row(&batch, 3, "<de>_", "de>__");
    assert_int_equal(row_of(batch.segments, 3)[4], -1);
    assert_int_equal(batch.tokens, 5 + 5 + 4 + 4);
    cb_batch_free(&batch);
    cb_dataset_free(data);
    data_options_free(&o);
    cb_tokenizer_free(tokenizer);
}

static void bos_and_eos_are_added_where_wanted_and_missing(void **state)
{
    (void)state;
    cb_tokenizer *tokenizer = characters(false, true);
    cb_data_options o = data_options(write_file("lines.txt", "<s>ab\ncd</s>\n"));
    o.lines = true;
    o.shuffle = o.packing = false;
    o.sequence_length = 5;
    cb_batch batch = {0};
    cb_dataset *data = open_data(tokenizer, &o);
    assert_true(cb_dataset_batch(data, 0, 2, &batch));
    assert_row(&batch, 0, "<ab>_", "ab>__");
    assert_row(&batch, 1, "<cd>_", "cd>__");
    cb_dataset_free(data);
    o.add_bos = o.add_eos = false;
    data = open_data(tokenizer, &o);
    assert_true(cb_dataset_batch(data, 0, 2, &batch));
    assert_row(&batch, 0, "<ab__", "ab___");
    assert_row(&batch, 1, "cd>__", "d>___");
    cb_dataset_free(data);
    cb_batch_free(&batch);
    data_options_free(&o);
    cb_tokenizer_free(tokenizer);
}

/* Completions are never parted from their prompts: examples fill rows as they fit, the best fit first, and what is longer than a
 * row is cut.  Plain text beside them is a stream as ever. */
static void packed_examples_stay_whole(void **state)
{
    (void)state;
    cb_tokenizer *tokenizer = characters(false, false);
    cb_data_options o = data_options(write_file("mixed.jsonl", "{\"prompt\": \"ab\", \"completion\": \"c\"}\n"
                                                               "{\"text\": \"THE STREAM IS CUT\"}\n"
                                                               "{\"prompt\": \"defg\", \"completion\": \"hi\"}\n"
                                                               "{\"prompt\": \"j\", \"completion\": \"kl\"}\n"
                                                               "{\"prompt\": \"m\", \"completion\": \"nop\"}\n"
                                                               "{\"prompt\": \"q\", \"completion\": \"rstuvwxyz!\"}\n"));
    o.shuffle = false;
    o.sequence_length = 10;
    cb_dataset *data = open_data(tokenizer, &o);
    assert_int_equal(cb_dataset_rows(data), 5);
    cb_batch batch = {0};
    assert_true(cb_dataset_batch(data, 0, 5, &batch));
    assert_row(&batch, 0, "THE STREAM", "HE STREAM ");
    assert_row(&batch, 1, " IS CUT___", "IS CUT____");
    assert_row(&batch, 2, "qrstuvwxyz", "rstuvwxyz!"); /* eleven tokens: the last is still predicted */
    assert_row(&batch, 3, "defghimnop", "___hi_nop_"); /* 6 + 4 */
    assert_row(&batch, 4, "abcjkl____", "_c_kl_____"); /* 3 + 3 */
    static const int32_t segments[10] = {0, 0, 0, 1, 1, 1, -1, -1, -1, -1}, positions[10] = {0, 1, 2, 0, 1, 2, 0, 0, 0, 0};
    assert_memory_equal(row_of(batch.segments, 4), segments, sizeof segments);
    assert_memory_equal(row_of(batch.positions, 4), positions, sizeof positions);
    cb_batch_free(&batch);
    cb_dataset_free(data);
    data_options_free(&o);
    cb_tokenizer_free(tokenizer);
}

/* Examples of tasks 0 and 2, and texts of 0 and 1: a row has documents of one, and knows which; other data has none to know. */
static void rows_are_of_one_task(void **state)
{
    (void)state;
    cb_tokenizer *tokenizer = characters(false, false);
    const char *path = write_file("tasks.jsonl", "{\"prompt\": \"ab\", \"completion\": \"c\"}\n"
                                                 "{\"prompt\": \"d\", \"completion\": \"ef\", \"task_ids\": 2}\n"
                                                 "{\"text\": \"THE STREAM\", \"task_ids\": 1}\n"
                                                 "{\"prompt\": \"g\", \"completion\": \"hi\"}\n"
                                                 "{\"text\": \"IS CUT\"}\n"
                                                 "{\"text\": \"AGAIN\", \"task_ids\": 1}\n"
                                                 "{\"prompt\": \"jk\", \"completion\": \"lm\", \"task_ids\": 2}\n");
    cb_data_options o = data_options(path);
    o.shuffle = false;
    o.sequence_length = 8;
    o.packing_strategy = CB_PACKING_BFD;
    cb_dataset *data = open_data(tokenizer, &o);
    assert_int_equal(cb_dataset_rows(data), 5);
    cb_batch batch = {0};
    assert_true(cb_dataset_batch(data, 0, 5, &batch));
    assert_row(&batch, 0, "IS CUT__", "S CUT___");
    assert_row(&batch, 1, "THE STRE", "HE STREA");
    assert_row(&batch, 2, "AMAGAIN_", "M_GAIN__");
    assert_row(&batch, 3, "abcghi__", "_c_hi___");
    assert_row(&batch, 4, "defjklm_", "ef__lm__");
    static const int32_t tasks[5] = {0, 1, 1, 0, 2};
    assert_int_equal(batch.tasks->count, 5);
    assert_memory_equal(batch.tasks->data, tasks, sizeof tasks);
    uint64_t hash = cb_dataset_hash(data);
    cb_dataset_free(data);
    cb_batch_free(&batch);
    o.packing_strategy = CB_PACKING_WRAPPED;
    data = open_data(tokenizer, &o);
    assert_int_equal(cb_dataset_rows(data), 2 + 2 + 1);
    assert_true(cb_dataset_batch(data, 0, 5, &batch));
    assert_row(&batch, 0, "abcghiIS", "_c_hi_S ");
    assert_row(&batch, 1, " CUT____", "CUT_____");
    assert_row(&batch, 4, "defjklm_", "ef__lm__");
    assert_int_equal(((const int32_t *)batch.tasks->data)[4], 2);
    cb_dataset_free(data);
    o.packing = false;
    data = open_data(tokenizer, &o);
    assert_true(cb_dataset_sequential(data, 0, 2, &batch));
    assert_int_equal(((const int32_t *)batch.tasks->data)[1], 2);
    assert_true(cb_dataset_hash(data) == hash);
    cb_dataset_free(data);
    data_options_free(&o);
    char *columns[] = {"task_ids=other"};
    o = data_options(path);
    o.columns = (cb_string_list){.items = columns, .count = 1};
    data = open_data(tokenizer, &o);
    assert_true(cb_dataset_batch(data, 0, 1, &batch));
    assert_null(batch.tasks);
    assert_true(cb_dataset_hash(data) != hash);
    o.columns = (cb_string_list){0};
    cb_batch_free(&batch);
    cb_dataset_free(data);
    data_options_free(&o);
    cb_tokenizer_free(tokenizer);
}

/* In every epoch each token is in one row, of its own task, whatever the packing: letters say the task. */
static void no_row_mixes_tasks(void **state)
{
    (void)state;
    enum { EXAMPLES = 200, TASKS = 7 };
    static char text[EXAMPLES * 128];
    char *at = text;
    cb_rng rng = {.seed = 2};
    int64_t total = 0;
    for (int i = 0; i < EXAMPLES; i++) {
        int n = 2 + (int)cb_rng_below(&rng, 40), task = (int)cb_rng_below(&rng, TASKS);
        char letters[64] = {0};
        memset(letters, 'c' + task, (size_t)n - 1);
        total += n;
        at += i % 3 ? sprintf(at, "{\"prompt\": \"%c\", \"completion\": \"%s\", \"task_ids\": %d}\n", 'c' + task, letters, task)
                    : sprintf(at, "{\"text\": \"%c%s\", \"task_ids\": %d}\n", 'c' + task, letters, task);
    }
    cb_tokenizer *tokenizer = characters(false, false);
    for (int strategy = CB_PACKING_AUTO; strategy <= CB_PACKING_WRAPPED; strategy++) {
        cb_data_options o = data_options(write_file("letters.jsonl", text));
        o.sequence_length = 32;
        o.packing_strategy = strategy;
        cb_dataset *data = open_data(tokenizer, &o);
        int64_t rows = cb_dataset_rows(data);
        cb_batch batch = {0};
        for (int epoch = 0; epoch < 2; epoch++) {
            assert_true(cb_dataset_batch(data, epoch, rows, &batch));
            assert_true(strategy == CB_PACKING_WRAPPED ? batch.tokens == total : batch.tokens > total * 9 / 10);
            for (int64_t row = 0; row < rows; row++)
                for (int64_t t = 0; t < 32; t++)
                    if (row_of(batch.segments, row)[t] >= 0)
                        assert_int_equal(row_of(batch.ids, row)[t], id_of('c' + (char)((const int32_t *)batch.tasks->data)[row]));
        }
        cb_batch_free(&batch);
        cb_dataset_free(data);
        data_options_free(&o);
    }
    cb_tokenizer_free(tokenizer);
}

/* Best-fit decreasing needs at most 11/9 of the least number of rows, and 1 (Johnson 1973); no example is lost or twice. */
static void packed_examples_waste_little(void **state)
{
    (void)state;
    enum { EXAMPLES = 300, ROW = 64 };
    static char text[EXAMPLES * 128];
    char *at = text;
    int64_t total = 0;
    cb_rng rng = {.seed = 1};
    for (int i = 0; i < EXAMPLES; i++) {
        int n = 2 + (int)cb_rng_below(&rng, 50);
        total += n;
        at += sprintf(at, "{\"prompt\": \"a\", \"completion\": \"%.*s\"}\n", n - 1,
                      "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb");
    }
    cb_tokenizer *tokenizer = characters(false, false);
    cb_data_options o = data_options(write_file("examples.jsonl", text));
    o.sequence_length = ROW;
    o.packing_strategy = CB_PACKING_BFD;
    cb_dataset *data = open_data(tokenizer, &o);
    int64_t rows = cb_dataset_rows(data), least = (total + ROW - 1) / ROW, prompts[2] = {0};
    assert_true(rows >= least && rows <= least * 11 / 9 + 1);
    cb_batch batch = {0};
    for (int epoch = 0; epoch < 2; epoch++) {
        assert_true(cb_dataset_batch(data, epoch, rows, &batch));
        assert_int_equal(batch.tokens, total);
        assert_int_equal(batch.predicted, total - EXAMPLES);
        for (int64_t i = 0; i < batch.ids->count; i++)
            prompts[epoch] += ((const int32_t *)batch.ids->data)[i] == id_of('a');
        assert_int_equal(prompts[epoch], EXAMPLES);
    }
    cb_batch_free(&batch);
    cb_dataset_free(data);
    data_options_free(&o);
    cb_tokenizer_free(tokenizer);
}

/* What is longer than a row goes on: bfd_split in parts that are fitted in as examples of their own, wrapped from each row to the next. */
static void packed_examples_go_on_where_asked(void **state)
{
    (void)state;
    cb_tokenizer *tokenizer = characters(false, false);
    cb_data_options o = data_options(write_file("long.jsonl", "{\"prompt\": \"abc\", \"completion\": \"de\"}\n"
                                                              "{\"prompt\": \"f\", \"completion\": \"ghijklmnopqrs\"}\n"));
    static const int32_t segments[8] = {0, 0, 0, 0, 0, 1, 1, 1}, positions[8] = {0, 1, 2, 3, 4, 0, 1, 2};
    o.shuffle = false;
    o.sequence_length = 8;
    o.packing_strategy = CB_PACKING_BFD_SPLIT;
    cb_dataset *data = open_data(tokenizer, &o);
    assert_int_equal(cb_dataset_rows(data), 3);
    assert_int_equal(cb_dataset_padding(data), 3 * 8 - 5 - 14);
    cb_batch batch = {0};
    assert_true(cb_dataset_batch(data, 0, 3, &batch));
    assert_row(&batch, 0, "fghijklm", "ghijklmn"); /* the next row's first token is still predicted */
    assert_row(&batch, 1, "nopqrs__", "opqrs___");
    assert_row(&batch, 2, "abcde___", "__de____");
    cb_dataset_free(data);
    o.packing_strategy = CB_PACKING_WRAPPED;
    data = open_data(tokenizer, &o);
    assert_int_equal(cb_dataset_rows(data), 3);
    assert_true(cb_dataset_batch(data, 0, 3, &batch));
    assert_row(&batch, 0, "abcdefgh", "__de_ghi");
    assert_row(&batch, 1, "ijklmnop", "jklmnopq");
    assert_row(&batch, 2, "qrs_____", "rs______");
    assert_memory_equal(row_of(batch.segments, 0), segments, sizeof segments);
    assert_memory_equal(row_of(batch.positions, 0), positions, sizeof positions);
    assert_int_equal(row_of(batch.positions, 1)[0], 0);
    cb_dataset_free(data);
    cb_batch_free(&batch);
    data_options_free(&o);
    cb_tokenizer_free(tokenizer);
}

/* Examples of 3/5 of a row leave 2/5 empty when they stay whole: auto cuts as many as keep 2 % empty, and learns everything once. */
static void auto_packing_leaves_little_empty(void **state)
{
    (void)state;
    enum { EXAMPLES = 400, ROW = 50, LONG = 30, SHORT = 25 };
    static char text[EXAMPLES * 128];
    char *at = text;
    for (int i = 0; i < EXAMPLES; i++) /* a half fits together in pairs */
        at += sprintf(at, "{\"prompt\": \"a\", \"completion\": \"%.*s\"}\n", (i % 2 ? LONG : SHORT) - 1, "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbb");
    cb_tokenizer *tokenizer = characters(false, false);
    cb_data_options o = data_options(write_file("examples.jsonl", text));
    o.sequence_length = ROW;
    o.packing_strategy = CB_PACKING_BFD;
    cb_dataset *whole = open_data(tokenizer, &o);
    assert_int_equal(cb_dataset_rows(whole), EXAMPLES / 2 + EXAMPLES / 4);
    o.packing_strategy = CB_PACKING_AUTO;
    cb_dataset *data = open_data(tokenizer, &o);
    int64_t rows = cb_dataset_rows(data), total = EXAMPLES / 2 * (LONG + SHORT);
    assert_int_equal(rows, total / ROW);
    assert_int_equal(cb_dataset_padding(data), 0);
    cb_batch batch = {0};
    for (int epoch = 0; epoch < 2; epoch++) {
        int64_t prompts = 0, begun = 0;
        assert_true(cb_dataset_batch(data, epoch, rows, &batch));
        assert_int_equal(batch.tokens, total);
        assert_int_equal(batch.predicted, total - EXAMPLES);
        for (int64_t i = 0; i < batch.ids->count; i++) {
            prompts += ((const int32_t *)batch.ids->data)[i] == id_of('a');
            begun += ((const int32_t *)batch.positions->data)[i] == 0;
        }
        assert_int_equal(prompts, EXAMPLES);
        assert_true(begun > EXAMPLES && begun <= EXAMPLES + EXAMPLES / 2 * LONG / ROW); /* those of 25 are whole */
    }
    cb_dataset *held_out = cb_dataset_split(data, 0.2, 1); /* of which all stay whole */
    assert_non_null(held_out);
    assert_true(cb_dataset_batch(held_out, 0, cb_dataset_rows(held_out), &batch));
    int64_t begun = 0;
    for (int64_t i = 0; i < batch.ids->count; i++)
        begun += ((const int32_t *)batch.segments->data)[i] >= 0 && ((const int32_t *)batch.positions->data)[i] == 0;
    assert_int_equal(begun, cb_dataset_documents(held_out));
    cb_batch_free(&batch);
    cb_dataset_free(held_out);
    cb_dataset_free(whole);
    cb_dataset_free(data);
    data_options_free(&o);
    cb_tokenizer_free(tokenizer);
}

/* ---- what is learned ---- */

static void only_completions_are_learned(void **state)
{
    (void)state;
    cb_tokenizer *tokenizer = characters(false, true);
    cb_data_options o = data_options(
        write_file("pairs.jsonl", "{\"prompt\": \"2+2=\", \"completion\": \"4\"}\n{\"prompt\": \"hi\", \"completion\": \" yo\"}\n"));
    o.shuffle = o.packing = false;
    o.sequence_length = 8;
    cb_batch batch = {0};
    cb_dataset *data = open_data(tokenizer, &o);
    assert_true(cb_dataset_batch(data, 0, 2, &batch));
    assert_row(&batch, 0, "<2+2=4>_", "____4>__");
    assert_row(&batch, 1, "<hi yo>_", "__ yo>__");
    assert_int_equal(batch.predicted, 2 + 4);
    cb_dataset_free(data);
    o.completion_only = false;
    data = open_data(tokenizer, &o);
    assert_true(cb_dataset_batch(data, 0, 2, &batch));
    assert_row(&batch, 0, "<2+2=4>_", "2+2=4>__");
    cb_dataset_free(data);
    cb_batch_free(&batch);
    data_options_free(&o);
    cb_tokenizer_free(tokenizer);
}

/* Ids are those of prompt and completion together; a token that begins in the prompt is not the model's to say. */
static void a_token_across_the_boundary_belongs_to_the_completion(void **state)
{
    (void)state;
    cb_tokenizer *tokenizer = characters(true, false);
    cb_data_options o = data_options(write_file("pairs.jsonl", "{\"prompt\": \"xa\", \"completion\": \"babc\"}\n"));
    o.shuffle = o.packing = false;
    o.sequence_length = 5;
    cb_batch batch = {0};
    cb_dataset *data = open_data(tokenizer, &o);
    assert_true(cb_dataset_batch(data, 0, 1, &batch));
    assert_row(&batch, 0, "x&&c_", "&&c__");
    cb_dataset_free(data);
    cb_batch_free(&batch);
    data_options_free(&o);
    cb_tokenizer_free(tokenizer);
}

static void only_the_assistants_messages_are_learned(void **state)
{
    (void)state;
    static const char *const text =
        "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}, "
        "{\"role\": \"user\", \"content\": \"c\"}, {\"role\": \"assistant\", \"content\": \"d\"}]}\n";
    cb_tokenizer *tokenizer = characters(false, true);
    cb_data_options o = data_options(write_file("chat.jsonl", text));
    o.shuffle = o.packing = false;
    o.sequence_length = 46;
    cb_batch batch = {0};
    cb_dataset *data = open_data(tokenizer, &o);
    assert_true(cb_dataset_batch(data, 0, 1, &batch));
    assert_row(&batch, 0, "<user: a|assistant: b|user: c|assistant: d|>__", "___________________b|___________________d|>___");
    cb_dataset_free(data);
    /* the marks of ChatML are its own begin and end */
    assert_true(cb_options_set(cb_data_option_table, &o, "chat_template", "chatml"));
    o.sequence_length = 128;
    data = open_data(tokenizer, &o);
    assert_true(cb_dataset_batch(data, 0, 1, &batch));
    const char *ids = text_of(row_of(batch.ids, 0), 128, row_of(batch.segments, 0));
    const char *expected = "<|im_start|>user|a<|im_end|>|<|im_start|>assistant|b<|im_end|>|<|im_start|>user|c<|im_end|>|"
                           "<|im_start|>assistant|d<|im_end|>|";
    assert_memory_equal(ids, expected, strlen(expected));
    assert_int_equal(batch.tokens, strlen(expected));
    assert_int_equal(batch.predicted, 2 * strlen("b<|im_end|>")); /* the line's end is not the model's to say */
    cb_dataset_free(data);
    cb_batch_free(&batch);
    data_options_free(&o);
    cb_tokenizer_free(tokenizer);
}

/* A prompt and a completion of messages are a conversation, of whose prompt not even the assistant's messages are learned. */
static void a_prompt_of_messages_is_not_learned(void **state)
{
    (void)state;
    static const char *const text =
        "{\"prompt\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}, "
        "{\"role\": \"user\", \"content\": \"c\"}], \"completion\": [{\"role\": \"assistant\", \"content\": \"d\"}]}\n";
    cb_tokenizer *tokenizer = characters(false, true);
    cb_data_options o = data_options(write_file("exchange.jsonl", text));
    o.shuffle = o.packing = false;
    o.sequence_length = 46;
    cb_batch batch = {0};
    cb_dataset *data = open_data(tokenizer, &o);
    assert_true(cb_dataset_batch(data, 0, 1, &batch));
    assert_row(&batch, 0, "<user: a|assistant: b|user: c|assistant: d|>__", "________________________________________d|>___");
    cb_dataset_free(data);
    /* and where the template marks nothing */
    write_file("own.jinja",
               "{% for m in messages %}{{ m.role[0] ~ m.content ~ '.' }}{% endfor %}{% if add_generation_prompt %}a{% endif %}");
    assert_true(cb_options_set(cb_data_option_table, &o, "chat_template", scratch_path("own.jinja")));
    o.sequence_length = 14;
    data = open_data(tokenizer, &o);
    assert_true(cb_dataset_batch(data, 0, 1, &batch));
    assert_row(&batch, 0, "ua.ab.uc.ad.__", "_________d.___");
    cb_dataset_free(data);
    cb_batch_free(&batch);
    data_options_free(&o);
    refuse_data(tokenizer, write_file("empty.jsonl", "{\"prompt\": [{\"role\": \"user\", \"content\": \"a\"}], \"completion\": []}\n"),
                CB_ERR_FORMAT, "empty.jsonl:1: completion: found no messages");
    refuse_data(tokenizer, write_file("half.jsonl", "{\"prompt\": [{\"role\": \"user\", \"content\": \"a\"}], \"completion\": \"b\"}\n"),
                CB_ERR_FORMAT, "half.jsonl:1: prompt: found no string");
    cb_tokenizer_free(tokenizer);
}

/* Writes the tokenizer's configuration with a chat template, given as it stands in JSON. */
static cb_tokenizer *with_template(const char *template)
{
    char config[1024];
    cb_tokenizer_free(characters(false, true)); /* makes the files */
    snprintf(config, sizeof config, "{\"bos_token\": \"<s>\", \"eos_token\": \"</s>\", \"chat_template\": \"%s\"}", template);
    write_file("tokenizer/tokenizer_config.json", config);
    cb_tokenizer *tokenizer = cb_tokenizer_load(scratch_path("tokenizer"));
    assert_ok();
    return tokenizer;
}

/* Expected texts are what Jinja 3.1 makes of these templates and messages. */
static void templates_are_followed_in_what_they_do_differently(void **state)
{
    (void)state;
    static const char *const messages = "{\"messages\": [{\"role\": \"user\", \"content\": \" a \"}, "
                                        "{\"role\": \"assistant\", \"content\": \"\\nb\"}]}\n";
    static const struct {
        const char *template, *text;
    } cases[] = {
        {"{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor "
         "%}",
         "<|im_start|>user| a <|im_end|>|<|im_start|>assistant||b<|im_end|>|"},
        {"{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nBe "
         "\\\"good\\\".<|im_end|>\\n' }}"
         "{% endif %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}",
         "<|im_start|>system|Be \"good\".<|im_end|>|<|im_start|>user| a <|im_end|>|<|im_start|>assistant||b<|im_end|>|"},
        {"{{ bos_token }}{% for m in messages %}{{'<|im_start|>' + m['role'] + '\\n' + m['content'] | trim + '<|im_end|>\\n'}}{% endfor %}",
         "<<|im_start|>user|a<|im_end|>|<|im_start|>assistant|b<|im_end|>|"},
        {"{% for m in messages %}{% set content = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + "
         "'<|eot_id|>' %}"
         "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}",
         "<<|start_header_id|>user<|end_header_id|>||a<|eot_id|><|start_header_id|>assistant<|end_header_id|>||b<|eot_id|>"},
    };
    cb_data_options o = data_options(write_file("chat.jsonl", messages));
    o.shuffle = o.packing = false;
    o.sequence_length = 200;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cb_tokenizer *tokenizer = with_template(cases[i].template);
        cb_batch batch = {0};
        cb_dataset *data = open_data(tokenizer, &o);
        assert_true(cb_dataset_batch(data, 0, 1, &batch));
        const char *text = text_of(row_of(batch.ids, 0), 200, row_of(batch.segments, 0));
        assert_int_equal(batch.tokens, strlen(cases[i].text));
        assert_memory_equal(text, cases[i].text, strlen(cases[i].text));
        cb_batch_free(&batch);
        cb_dataset_free(data);
        cb_tokenizer_free(tokenizer);
    }
    data_options_free(&o);
}

/* What is learned of two answers: where the template marks them, where it only ends them with a special token, and where it drops
 * what was thought before, so that each answer is a text of its own. */
static void answers_are_learned_whatever_the_template(void **state)
{
    (void)state;
    static const char *const messages = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, "
                                        "{\"role\": \"assistant\", \"content\": \"b\", \"reasoning_content\": \"w\"}, "
                                        "{\"role\": \"user\", \"content\": \"c\"}, {\"role\": \"assistant\", \"content\": \"d\"}]}\n";
    static const struct {
        const char *template, *ids[2], *targets[2];
    } cases[] = {
        {"{% for m in messages %}{% if m.role == 'user' %}U{{ m.content }}{% else %}A{% generation %}{{ m.content }}!{% endgeneration %}."
         "{% endif %}{% endfor %}",
         {"UaAb!.UcAd!.", NULL},
         {"__b!____d!__", NULL}},
        {"{% for m in messages %}{{ 'U' + m.content if m.role == 'user' else 'A' + m.content + eos_token + ' ' }}{% endfor %}"
         "{{ 'A' if add_generation_prompt }}",
         {"UaAb> UcAd> ", NULL},
         {"__b>____d>__", NULL}},
        {"{% for m in messages %}{{ 'U' + m.content if m.role == 'user' else 'A' + ('(' + m.thinking + ')' if loop.last and m.thinking "
         "else '') + "
         "m.content + eos_token }}{% endfor %}{{ 'A' if add_generation_prompt }}",
         {"UaAb>UcAd>", "UaA(w)b>"},
         {"_______d>_", "__(w)b>_"}},
        {"{% for m in messages %}{{ 'U' + m.content if m.role == 'user' else 'A' + m.content + eos_token }}{% endfor %}"
         "{{ 'A<' if add_generation_prompt }}",
         {"UaAb>UcAd>", NULL},
         {"__b>___d>_", NULL}},
    };
    cb_data_options o = data_options(write_file("chat.jsonl", messages));
    o.shuffle = o.packing = false;
    o.sequence_length = 40;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cb_tokenizer *tokenizer = with_template(cases[i].template);
        cb_batch batch = {0};
        cb_dataset *data = open_data(tokenizer, &o);
        assert_int_equal(cb_dataset_documents(data), cases[i].ids[1] ? 2 : 1);
        for (int64_t d = 0; d < cb_dataset_documents(data); d++) {
            assert_true(cb_dataset_batch(data, d, 1, &batch));
            const char *ids = text_of(row_of(batch.ids, 0), 40, row_of(batch.segments, 0));
            const char *targets = text_of(row_of(batch.targets, 0), 40, NULL);
            assert_memory_equal(ids, cases[i].ids[d], strlen(cases[i].ids[d]));
            assert_memory_equal(targets, cases[i].targets[d], strlen(cases[i].ids[d]));
        }
        cb_batch_free(&batch);
        cb_dataset_free(data);
        cb_tokenizer_free(tokenizer);
    }
    data_options_free(&o);
}

/* ---- order ---- */

enum { DOCUMENTS = 60, LENGTH = 7, ROWS = 4 };

/* Documents of different lengths, each of one letter pattern that tells it from the others. */
static const char *many_documents(void)
{
    static char text[DOCUMENTS * 32];
    char *at = text;
    for (int i = 0; i < DOCUMENTS; i++)
        at += sprintf(at, "%c%c%.*s\n", 'A' + i / 26, 'a' + i % 26, 1 + i % 11, "-----------");
    return write_file("many.txt", text);
}

static cb_data_options many_options(uint64_t seed)
{
    cb_data_options o = data_options(many_documents());
    o.lines = true;
    o.sequence_length = LENGTH;
    o.seed = seed;
    return o;
}

static void count_ids(cb_dataset *data, int64_t epoch, int64_t *counts)
{
    cb_batch batch = {0};
    int64_t rows = cb_dataset_rows(data);
    memset(counts, 0, 100 * sizeof *counts);
    for (int64_t r = 0; r < rows; r++) {
        assert_true(cb_dataset_batch(data, epoch * rows + r, 1, &batch));
        for (int64_t i = 0; i < LENGTH; i++)
            if (row_of(batch.segments, 0)[i] >= 0)
                counts[row_of(batch.ids, 0)[i]]++;
    }
    cb_batch_free(&batch);
}

static void every_epoch_holds_everything_once_in_another_order(void **state)
{
    (void)state;
    cb_tokenizer *tokenizer = characters(false, false);
    for (int packing = 0; packing < 2; packing++) {
        cb_data_options o = many_options(3);
        o.packing = packing;
        cb_dataset *data = open_data(tokenizer, &o);
        int64_t first[100], second[100], rows = cb_dataset_rows(data);
        count_ids(data, 0, first);
        count_ids(data, 1, second);
        assert_memory_equal(first, second, sizeof first);
        assert_int_equal(first[id_of('A')], 26);
        cb_batch a = {0}, b = {0};
        assert_true(cb_dataset_batch(data, 0, rows, &a) && cb_dataset_batch(data, 1, rows, &b));
        assert_memory_not_equal(a.ids->data, b.ids->data, (size_t)a.ids->count * 4);
        cb_batch_free(&a);
        cb_batch_free(&b);
        cb_dataset_free(data);
        data_options_free(&o);
    }
    cb_tokenizer_free(tokenizer);
}

/* A batch is a function of seed and number alone: not of what was asked before, nor of how many threads tokenised. */
static void batches_can_be_asked_for_in_any_order(void **state)
{
    (void)state;
    cb_tokenizer *tokenizer = characters(false, false);
    cb_data_options o = many_options(3), other_seed = many_options(4);
    int threads = cb_threads();
    cb_set_threads(1);
    cb_dataset *data = open_data(tokenizer, &o), *other = open_data(tokenizer, &other_seed);
    cb_set_threads(3);
    cb_dataset *again = open_data(tokenizer, &o);
    cb_set_threads(threads);
    cb_batch a = {0}, b = {0}, c = {0};
    static const int64_t order[] = {40, 2, 0, 77, 2, 41, 3};
    bool differs = false;
    for (int64_t i = 0; i < 80; i++)
        assert_true(cb_dataset_batch(data, i, ROWS, &a));
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        assert_true(cb_dataset_batch(data, order[i], ROWS, &a));
        assert_true(cb_dataset_batch(again, order[i], ROWS, &b));
        assert_true(cb_dataset_batch(other, order[i], ROWS, &c));
        assert_memory_equal(a.ids->data, b.ids->data, sizeof(int32_t) * ROWS * LENGTH);
        assert_memory_equal(a.targets->data, b.targets->data, sizeof(int32_t) * ROWS * LENGTH);
        assert_memory_equal(a.segments->data, b.segments->data, sizeof(int32_t) * ROWS * LENGTH);
        assert_memory_equal(a.positions->data, b.positions->data, sizeof(int32_t) * ROWS * LENGTH);
        differs |= memcmp(a.ids->data, c.ids->data, sizeof(int32_t) * ROWS * LENGTH) != 0;
    }
    assert_true(differs);
    /* batches of two rows are halves of batches of four */
    assert_true(cb_dataset_batch(data, 5, 4, &a) && cb_dataset_batch(data, 11, 2, &b));
    assert_memory_equal(row_of(a.ids, 2), b.ids->data, sizeof(int32_t) * 2 * LENGTH);
    cb_batch_free(&a);
    cb_batch_free(&b);
    cb_batch_free(&c);
    cb_dataset_free(data);
    cb_dataset_free(again);
    cb_dataset_free(other);
    data_options_free(&o);
    data_options_free(&other_seed);
    cb_tokenizer_free(tokenizer);
}

static void sequential_rows_are_the_text_in_order(void **state)
{
    (void)state;
    cb_tokenizer *tokenizer = characters(false, false);
    static char text[211];
    for (int i = 0; i < 210; i++)
        text[i] = (char)(33 + i * 7 % 94);
    cb_data_options o = data_options(write_file("one.txt", text));
    o.sequence_length = 20;
    cb_dataset *data = open_data(tokenizer, &o);
    cb_batch batch = {0};
    int64_t at = 0, batches = 0;
    while (cb_dataset_sequential(data, batches, ROWS, &batch)) {
        batches++;
        for (int64_t i = 0; i < batch.ids->count; i++, at++) {
            bool padding = ((const int32_t *)batch.segments->data)[i] < 0;
            assert_int_equal(padding, at >= 210);
            if (!padding)
                assert_int_equal(((const int32_t *)batch.ids->data)[i], id_of(text[at]));
        }
    }
    assert_ok();
    assert_int_equal(batches, 3); /* 11 rows: 4, 4, 3 */
    assert_int_equal(batch.ids->shape[0], 3);
    cb_batch_free(&batch);
    cb_dataset_free(data);
    data_options_free(&o);
    cb_tokenizer_free(tokenizer);
}

/* ---- splitting ---- */

static void a_split_moves_whole_documents(void **state)
{
    (void)state;
    cb_tokenizer *tokenizer = characters(false, false);
    cb_data_options o = many_options(1);
    cb_dataset *whole = open_data(tokenizer, &o), *train = open_data(tokenizer, &o), *twin = open_data(tokenizer, &o);
    cb_dataset *held_out = cb_dataset_split(train, 0.25, 9), *same = cb_dataset_split(twin, 0.25, 9);
    assert_ok();
    assert_int_equal(cb_dataset_documents(train) + cb_dataset_documents(held_out), DOCUMENTS);
    assert_int_equal(cb_dataset_tokens(train) + cb_dataset_tokens(held_out), cb_dataset_tokens(whole));
    double share = (double)cb_dataset_tokens(held_out) / (double)cb_dataset_tokens(whole);
    assert_true(share >= 0.25 && share < 0.25 + 13. / (double)cb_dataset_tokens(whole));
    int64_t all[100], part[100], rest[100];
    count_ids(whole, 0, all);
    count_ids(train, 0, rest);
    count_ids(held_out, 0, part);
    for (int i = 0; i < 100; i++)
        assert_int_equal(part[i] + rest[i], all[i]);
    cb_batch a = {0}, b = {0};
    assert_true(cb_dataset_batch(held_out, 0, ROWS, &a) && cb_dataset_batch(same, 0, ROWS, &b));
    assert_memory_equal(a.ids->data, b.ids->data, sizeof(int32_t) * ROWS * LENGTH);
    cb_batch_free(&a);
    cb_batch_free(&b);
    cb_dataset_free(train); /* the store lives on with the part */
    assert_true(cb_dataset_batch(held_out, 3, ROWS, &a));
    cb_batch_free(&a);
    cb_dataset_free(held_out);
    cb_dataset_free(same);
    cb_dataset_free(twin);
    cb_dataset_free(whole);
    data_options_free(&o);
    cb_tokenizer_free(tokenizer);
}

static void a_single_text_is_cut_at_its_end(void **state)
{
    (void)state;
    cb_tokenizer *tokenizer = characters(false, false);
    cb_data_options o = data_options(write_file("one.txt", "abcdefghijklmnopqrst"));
    o.shuffle = false;
    o.sequence_length = 16;
    cb_dataset *train = open_data(tokenizer, &o), *held_out = cb_dataset_split(train, 0.2, 1);
    assert_ok();
    cb_batch batch = {0};
    assert_true(cb_dataset_batch(train, 0, 1, &batch));
    assert_row(&batch, 0, "abcdefghijklmnop", "bcdefghijklmnop_");
    assert_true(cb_dataset_batch(held_out, 0, 1, &batch));
    assert_row(&batch, 0, "qrst____________", "rst_____________");
    cb_batch_free(&batch);
    assert_null(cb_dataset_split(held_out, 0.1, 1));
    assert_int_equal(cb_error_status(), CB_ERR_ARGUMENT);
    cb_error_clear();
    cb_dataset_free(train);
    cb_dataset_free(held_out);
    data_options_free(&o);
    cb_tokenizer_free(tokenizer);
}

/* An example is asked and answered in one piece, however few there are. */
static void examples_are_not_cut_by_a_split(void **state)
{
    (void)state;
    cb_tokenizer *tokenizer = characters(false, false);
    static const char *const text =
        "{\"prompt\": \"aaaaaa\", \"completion\": \"bbbb\"}\n{\"prompt\": \"cccccc\", \"completion\": \"dddd\"}\n";
    cb_data_options o = data_options(write_file("pairs.jsonl", text));
    o.sequence_length = 10;
    cb_dataset *train = open_data(tokenizer, &o), *held_out = cb_dataset_split(train, 0.5, 1);
    assert_ok();
    assert_int_equal(cb_dataset_tokens(train), 10);
    assert_int_equal(cb_dataset_tokens(held_out), 10);
    cb_dataset_free(train);
    cb_dataset_free(held_out);
    data_options_free(&o);
    cb_tokenizer_free(tokenizer);
}

/* ---- long texts ---- */

/* Beyond what is read at once, before and after shorter ones. */
static void a_long_text_is_one_document(void **state)
{
    (void)state;
    enum { LONG = (4 << 20) + 4321, SHORT = 50 };
    cb_tokenizer *tokenizer = characters(false, false);
    char *text = malloc(LONG + 1), *names[] = {"long/a.txt", "long/b.txt", "long/c.txt"};
    memset(text, 'x', LONG);
    for (int i = 0; i < LONG; i += 97)
        text[i] = ' ';
    text[LONG] = '\0';
    assert_true(cb_directory_make(scratch_path("long")));
    write_file(names[1], text);
    text[SHORT] = '\0';
    write_file(names[0], text);
    write_file(names[2], text);
    free(text);
    cb_data_options o = data_options(scratch_path("long"));
    cb_dataset *data = open_data(tokenizer, &o);
    assert_int_equal(cb_dataset_documents(data), 3);
    assert_int_equal(cb_dataset_tokens(data), LONG + 2 * SHORT);
    cb_batch batch = {0};
    assert_true(cb_dataset_sequential(data, 0, 1, &batch));
    assert_int_equal(row_of(batch.segments, 0)[SHORT - 1], 0);
    assert_int_equal(row_of(batch.segments, 0)[SHORT], 1);
    assert_int_equal(row_of(batch.ids, 0)[SHORT], ID_SPACE);
    cb_batch_free(&batch);
    cb_dataset_free(data);
    data_options_free(&o);
    cb_tokenizer_free(tokenizer);
}

/* ---- refusals ---- */

static void bad_data_is_refused_with_file_and_line(void **state)
{
    (void)state;
    cb_tokenizer *tokenizer = characters(false, true);
    cb_encoding first = {0}; /* what a tokenizer makes once is made */
    assert_true(cb_tokenizer_encode(tokenizer, "a", 1, false, &first));
    cb_encoding_free(&first);
    refuse_data(tokenizer, write_file("empty.txt", ""), CB_ERR_FORMAT, "empty.txt");
    refuse_data(tokenizer, write_file("empty.jsonl", "{\"text\": \"\"}\n"), CB_ERR_FORMAT, "empty.jsonl");
    refuse_data(tokenizer, write_file("wrong.jsonl", "{\"text\": \"fine\"}\n{\"text\": 5}\n"), CB_ERR_FORMAT, "wrong.jsonl:2");
    refuse_data(tokenizer, write_file("bad.txt", "good\nbad \377 byte\n"), CB_ERR_FORMAT, "bad.txt");
    refuse_data(tokenizer, scratch_path("missing.txt"), CB_ERR_IO, "missing.txt");
    /* é: the characters' tokenizer has no token for its bytes, and no unknown token either: they are dropped */
    refuse_data(tokenizer, write_file("unknown.txt", "\303\251"), CB_ERR_FORMAT, "unknown.txt");
    cb_tokenizer_free(tokenizer);
    /* a template that refuses, one that is broken, and one whose answers cannot be told from what is before them */
    static const char *const chats[][2] = {
        {"{{ raise_exception('no system') }}", "chat.jsonl:2: chat_template:1: the template refuses this conversation: no system"},
        {"{% if %}", "chat_template:1: found %}, expected an expression"},
        {"{{ messages|length }}{% for m in messages %}{{ m.content }}{% endfor %}", "the answer in message 2 cannot be told"}};
    for (size_t i = 0; i < sizeof chats / sizeof *chats; i++) {
        tokenizer = with_template(chats[i][0]);
        assert_true(cb_tokenizer_encode(tokenizer, "a", 1, false, &first));
        cb_encoding_free(&first);
        refuse_data(tokenizer,
                    write_file("chat.jsonl", "\n{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, "
                                             "{\"role\": \"assistant\", \"content\": \"b\"}]}\n"),
                    i < 2 ? CB_ERR_FORMAT : CB_ERR_UNSUPPORTED, chats[i][1]);
        cb_tokenizer_free(tokenizer);
    }
}

static char warning[256];
static void keep_warning(void *user, cb_log_level level, const char *message)
{
    (void)user;
    if (level == CB_LOG_WARNING)
        snprintf(warning, sizeof warning, "%s", message);
}

static void records_without_anything_to_learn_are_left_out(void **state)
{
    (void)state;
    cb_tokenizer *tokenizer = characters(false, true);
    cb_data_options o = data_options(write_file("some.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n"
                                                              "{\"text\": \"ab\"}\n{\"text\": \"\"}\n"));
    o.add_eos = false;
    cb_log_set(keep_warning, NULL);
    cb_dataset *data = open_data(tokenizer, &o);
    cb_log_set(NULL, NULL);
    assert_int_equal(cb_dataset_documents(data), 1);
    assert_non_null(strstr(warning, "2 of 3"));
    cb_dataset_free(data);
    data_options_free(&o);
    cb_tokenizer_free(tokenizer);
}

static void examples_that_are_cut_are_counted(void **state)
{
    (void)state;
    cb_tokenizer *tokenizer = characters(false, false);
    cb_data_options o = data_options(write_file("long.jsonl", "{\"prompt\": \"ab\", \"completion\": \"cdef\"}\n"
                                                              "{\"prompt\": \"ab\", \"completion\": \"cde\"}\n"
                                                              "{\"text\": \"text goes on in the next row\"}\n"));
    o.sequence_length = 4;
    o.packing_strategy = CB_PACKING_BFD;
    cb_log_set(keep_warning, NULL);
    cb_dataset *data = open_data(tokenizer, &o);
    assert_string_equal(warning, "data: 1 of 2 examples have more tokens than the 4 of a row and are cut");
    cb_dataset_free(data);
    warning[0] = 0;
    o.packing_strategy = CB_PACKING_AUTO; /* goes on in another row instead */
    data = open_data(tokenizer, &o);
    cb_log_set(NULL, NULL);
    assert_non_null(strstr(warning, "data: 1 of 2 examples are laid end to end"));
    cb_dataset_free(data);
    data_options_free(&o);
    cb_tokenizer_free(tokenizer);
}

/* ---- memory ---- */

static void failing_allocations_leave_nothing_behind(void **state)
{
    (void)state;
    cb_tokenizer *tokenizer = characters(true, true);
    cb_data_options o = data_options(write_file(
        "mixed.jsonl", "{\"text\": \"some text\"}\n{\"prompt\": \"abab\", \"completion\": \"ba\"}\n"
                       "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}]}\n"));
    o.sequence_length = 4;
    int threads = cb_threads();
    cb_set_threads(1);
    cb_dataset_free(open_data(tokenizer, &o)); /* whatever is made once is made */
    uint64_t before = cb_memory().live_bytes;
    bool done = false;
    for (uint64_t n = 1; !done; n++) {
        cb_memory_fail_after(n);
        cb_dataset *data = cb_dataset_open(tokenizer, &o), *part = data ? cb_dataset_split(data, 0.4, 1) : NULL;
        cb_batch batch = {0};
        done = part && cb_dataset_batch(data, 0, 2, &batch) && cb_dataset_sequential(part, 0, 2, &batch);
        cb_memory_fail_after(0);
        if (!done)
            assert_int_equal(cb_error_status(), CB_ERR_MEMORY);
        cb_error_clear();
        cb_batch_free(&batch);
        cb_dataset_free(part);
        cb_dataset_free(data);
        cb_scope_close(NULL);
        assert_int_equal(cb_memory().live_bytes, before);
        assert_true(n < 10000);
    }
    cb_set_threads(threads);
    data_options_free(&o);
    cb_tokenizer_free(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(packed_rows_keep_documents_apart, without_errors),
        cmocka_unit_test_setup(without_packing_every_document_begins_a_row, without_errors),
        cmocka_unit_test_setup(bos_and_eos_are_added_where_wanted_and_missing, without_errors),
        cmocka_unit_test_setup(packed_examples_stay_whole, without_errors),
        cmocka_unit_test_setup(rows_are_of_one_task, without_errors),
        cmocka_unit_test_setup(no_row_mixes_tasks, without_errors),
        cmocka_unit_test_setup(packed_examples_waste_little, without_errors),
        cmocka_unit_test_setup(packed_examples_go_on_where_asked, without_errors),
        cmocka_unit_test_setup(auto_packing_leaves_little_empty, without_errors),
        cmocka_unit_test_setup(only_completions_are_learned, without_errors),
        cmocka_unit_test_setup(a_token_across_the_boundary_belongs_to_the_completion, without_errors),
        cmocka_unit_test_setup(only_the_assistants_messages_are_learned, without_errors),
        cmocka_unit_test_setup(a_prompt_of_messages_is_not_learned, without_errors),
        cmocka_unit_test_setup(answers_are_learned_whatever_the_template, without_errors),
        cmocka_unit_test_setup(templates_are_followed_in_what_they_do_differently, without_errors),
        cmocka_unit_test_setup(every_epoch_holds_everything_once_in_another_order, without_errors),
        cmocka_unit_test_setup(batches_can_be_asked_for_in_any_order, without_errors),
        cmocka_unit_test_setup(sequential_rows_are_the_text_in_order, without_errors),
        cmocka_unit_test_setup(a_split_moves_whole_documents, without_errors),
        cmocka_unit_test_setup(a_single_text_is_cut_at_its_end, without_errors),
        cmocka_unit_test_setup(examples_are_not_cut_by_a_split, without_errors),
        cmocka_unit_test_setup(a_long_text_is_one_document, without_errors),
        cmocka_unit_test_setup(bad_data_is_refused_with_file_and_line, without_errors),
        cmocka_unit_test_setup(records_without_anything_to_learn_are_left_out, without_errors),
        cmocka_unit_test_setup(examples_that_are_cut_are_counted, without_errors),
        cmocka_unit_test_setup(failing_allocations_leave_nothing_behind, without_errors),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
