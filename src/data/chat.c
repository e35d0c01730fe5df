/* chat.c: conversations as text, written by chat templates as transformers' apply_chat_template does.
 *
 * What is learned of a conversation is what the assistant says.  A template that marks it with {% generation %} says so itself.  For
 * others the conversation is written up to each of the assistant's messages: the text before it, ending with the generation prompt,
 * and the text with it; what the second has more is the answer.  Where the whole text begins with the second, the answer is a
 * stretch of it; where it does not (templates that drop earlier thoughts), the second is a text of its own, which is also what the
 * model sees when it is to answer at that point. */
#include <jansson.h>
#include <string.h>

#include "core/json.h"
#include "data/dataset.h"
#include "formats/jinja.h"

struct cb_chat {
    const cb_tokenizer *tokenizer;
    cb_jinja *template;
    char *name;
    bool framed, marks; /* marks: it has {% generation %} */
};

/* ---- which template ---- */

static bool read_template(cb_chat *chat, const char *name)
{
    static const char plain[] = "plain";
    char *file = NULL;
    const char *own = !name || strcmp(name, "auto") == 0 ? cb_tokenizer_chat_template(chat->tokenizer)
                                                         : cb_tokenizer_chat_template_named(chat->tokenizer, name);
    const char *text = own, *what = "chat_template";
    if (!text) {
        what = !name || strcmp(name, "auto") == 0 ? plain : name;
        text = cb_chat_builtin(what);
        chat->framed = !text || strcmp(what, plain) != 0;
    }
    if (!text && cb_is_file(name))
        text = file = cb_file_read(name, (size_t)16 << 20, NULL);
    if (!text && cb_ok())
        cb_fail(CB_ERR_ARGUMENT, "chat_template: found \"%s\", expected auto, chatml, llama3, plain, a template of the tokenizer or a file",
                name);
    if (text) {
        chat->marks = strstr(text, "generation") && strstr(text, "endgeneration");
        chat->name = cb_strdup(what);
        chat->template = chat->name ? cb_jinja_parse(what, text, strlen(text)) : NULL;
    }
    cb_free(file);
    return chat->template;
}

cb_chat *cb_chat_open(const cb_tokenizer *tokenizer, const char *name)
{
    cb_chat *chat = cb_calloc(1, sizeof *chat);
    if (!chat)
        return NULL;
    chat->tokenizer = tokenizer;
    chat->framed = true;
    if (read_template(chat, name))
        return chat;
    cb_chat_free(chat);
    return NULL;
}

void cb_chat_free(cb_chat *chat)
{
    if (!chat)
        return;
    cb_jinja_free(chat->template);
    cb_free(chat->name);
    cb_free(chat);
}

bool cb_chat_is_framed(const cb_chat *chat)
{
    return chat->framed;
}

/* ---- variables ---- */

static bool out_of_memory(void)
{
    return cb_fail(CB_ERR_MEMORY, "out of memory") == CB_OK;
}

/* A message without members that are null, and with what it thought under the names that templates ask for. */
static json_t *plain_message(const json_t *message)
{
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    json_t *out = json_object(), *thought = NULL, *member;
    const char *key;
    json_object_foreach((json_t *)message, key, member)
    {
        if (!json_is_null(member))
            cb_json_put(out, key, json_incref(member));
    }
    for (size_t i = 0; i < 3 && !thought; i++)
        thought = json_object_get(out, names[i]);
    if (thought && !json_object_get(out, "thinking"))
        cb_json_put(out, "thinking", json_incref(thought));
    if (thought)
        cb_json_put(out, "reasoning_content", json_incref(thought));
    return cb_json_made(out);
}

static void set_token(const cb_chat *chat, json_t *variables, const char *name, int32_t id)
{
    const char *text = id >= 0 ? cb_tokenizer_token(chat->tokenizer, id) : NULL;
    if (text)
        cb_json_put(variables, name, json_string(text));
}

static void put_all(json_t *variables, const json_t *more)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)more, key, value) cb_json_put(variables, key, json_incref(value));
}

/* JSON as text; an empty one means that there are none. */
static void put_tools(json_t *variables, const json_t *text)
{
    const char *at = json_string_value(text);
    size_t length = json_string_length(text);
    json_t *tools = at[strspn(at, " \t\r\n")] ? cb_json_parse("tools", at, length) : NULL;
    if (tools)
        cb_json_put(variables, "tools", tools);
}

/* Everything a template is given but the messages. */
static json_t *shared_variables(const cb_chat *chat, const json_t *conversation)
{
    json_t *variables = json_object(), *member;
    const char *key;
    cb_json_put(variables, "tools", json_null());
    cb_json_put(variables, "documents", json_null());
    set_token(chat, variables, "bos_token", cb_tokenizer_bos(chat->tokenizer));
    set_token(chat, variables, "eos_token", cb_tokenizer_eos(chat->tokenizer));
    set_token(chat, variables, "pad_token", cb_tokenizer_pad(chat->tokenizer));
    set_token(chat, variables, "unk_token", cb_tokenizer_unk(chat->tokenizer));
    json_object_foreach((json_t *)conversation, key, member)
    {
        if (strcmp(key, "chat_template_kwargs") == 0)
            put_all(variables, member);
        else if (strcmp(key, "tools") == 0 && json_is_string(member)) /* as some data sets have them */
            put_tools(variables, member);
        else
            cb_json_put(variables, key, json_incref(member));
    }
    return cb_json_made(variables);
}

static json_t *plain_messages(const json_t *list)
{
    json_t *messages = json_array();
    for (size_t i = 0; cb_ok() && i < json_array_size(list); i++)
        if (json_is_object(json_array_get(list, i)))
            cb_json_add(messages, plain_message(json_array_get(list, i)));
        else
            cb_fail(CB_ERR_FORMAT, "messages: found no object at %zu, expected one with role and content", i);
    return cb_json_made(messages);
}

/* ---- rendering ---- */

typedef struct rendering {
    const cb_chat *chat;
    json_t *variables, *messages;
} rendering;

/* The first `count` messages. */
static bool render(const rendering *r, size_t count, bool prompt, cb_jinja_output *out)
{
    json_t *some = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append(some, json_array_get(r->messages, i));
    bool ok = some && json_array_size(some) == count && cb_json_put(r->variables, "messages", some) &&
              cb_json_put(r->variables, "add_generation_prompt", json_boolean(prompt));
    return ok ? cb_jinja_render_json(r->chat->template, r->variables, out) : out_of_memory();
}

static bool rendering_open(rendering *r, const cb_chat *chat, const json_t *conversation)
{
    bool list = json_is_array(conversation);
    *r = (rendering){.chat = chat};
    r->messages = plain_messages(list ? conversation : json_object_get(conversation, "messages"));
    r->variables = r->messages ? shared_variables(chat, list ? NULL : conversation) : NULL;
    if (r->messages && !json_array_size(r->messages))
        return cb_fail(CB_ERR_FORMAT, "messages: found none, expected an array of objects with role and content") == CB_OK;
    return r->variables;
}

static void rendering_close(rendering *r)
{
    json_decref(r->variables);
    json_decref(r->messages);
}

bool cb_chat_apply(const cb_chat *chat, const char *json, size_t length, bool add_generation_prompt, cb_string *text)
{
    json_t *value = cb_json_parse("messages", json, length);
    rendering r = {0};
    cb_jinja_output out = {0};
    bool ok = value && rendering_open(&r, chat, value) && render(&r, json_array_size(r.messages), add_generation_prompt, &out) &&
              cb_string_append(text, out.text.data, out.text.length);
    cb_jinja_output_free(&out);
    rendering_close(&r);
    json_decref(value);
    return ok;
}

/* ---- what is learned ---- */

void cb_chat_texts_free(chat_texts *texts)
{
    for (size_t i = 0; i < texts->capacity; i++) {
        cb_string_free(&texts->items[i].text);
        cb_free(texts->items[i].learned.items);
    }
    cb_free(texts->items);
    *texts = (chat_texts){0};
}

static chat_text *add_text(chat_texts *texts, const cb_string *text)
{
    size_t before = texts->capacity;
    if (texts->count == before) {
        if (!cb_grow(&texts->items, &texts->capacity, before + 1, sizeof *texts->items))
            return NULL;
        memset(texts->items + before, 0, (texts->capacity - before) * sizeof *texts->items);
    }
    chat_text *t = &texts->items[texts->count++];
    cb_string_clear(&t->text);
    t->learned.count = 0;
    return cb_string_append(&t->text, text->data, text->length) ? t : NULL;
}

static bool add_span(chat_text *text, size_t begin, size_t end)
{
    text_span_list *l = &text->learned;
    if (begin >= end)
        return true;
    if (!cb_grow(&l->items, &l->capacity, l->count + 1, sizeof *l->items))
        return false;
    l->items[l->count++] = (text_span){begin, end};
    return true;
}

/* White space behind the mark that ends an answer is the template's, not said: where the answer really ends. */
static size_t end_of_answer(const cb_chat *chat, const cb_string *text, size_t begin)
{
    enum { LONGEST_MARK = 64 };
    size_t end = text->length;
    char mark[LONGEST_MARK + 1];
    while (end > begin && strchr(" \t\r\n", text->data[end - 1]))
        end--;
    for (size_t n = 1; n <= LONGEST_MARK && n <= end - begin; n++) {
        memcpy(mark, text->data + end - n, n);
        mark[n] = '\0';
        int32_t id = cb_tokenizer_id(chat->tokenizer, mark);
        if (id >= 0 && cb_tokenizer_is_special(chat->tokenizer, id))
            return end;
    }
    return text->length;
}

static size_t common_start(const cb_string *a, const cb_string *b)
{
    size_t n = 0;
    while (n < a->length && n < b->length && a->data[n] == b->data[n])
        n++;
    while (n > 0 && n < b->length && ((unsigned char)b->data[n] & 0xc0) == 0x80) /* not within a character */
        n--;
    return n;
}

/* The answer in message `i`: `upto` becomes the text with it, [*begin, *end) its place there. */
static bool find_answer(const rendering *r, size_t i, cb_jinja_output *before, cb_jinja_output *upto, size_t *begin, size_t *end)
{
    if (!render(r, i, true, before) || !render(r, i + 1, false, upto)) {
        cb_error_prefix("the answer in message %zu", i + 1);
        return false;
    }
    *begin = common_start(&before->text, &upto->text);
    if (*begin < before->text.length) {
        /* an answer that does not begin as the prompt for it ends (a thought that is opened): what both have is asked, so long as that
         * is the conversation before it */
        size_t shared = *begin;
        if (!render(r, i, false, before))
            return false;
        if (common_start(&before->text, &upto->text) < before->text.length || shared < before->text.length)
            return cb_fail(CB_ERR_UNSUPPORTED,
                           "the answer in message %zu cannot be told from what is before it: with the template %s the text up to there is "
                           "no beginning of the text with it; mark answers with {%% generation %%} in a template of your own",
                           i + 1, r->chat->name) == CB_OK;
    }
    *end = end_of_answer(r->chat, &upto->text, *begin);
    return true;
}

static bool is_assistant(const rendering *r, size_t i)
{
    const char *role = json_string_value(json_object_get(json_array_get(r->messages, i), "role"));
    return role && strcmp(role, "assistant") == 0;
}

static bool learn_by_prefixes(const rendering *r, size_t asked, const cb_string *whole, chat_texts *out)
{
    cb_jinja_output before = {0}, upto = {0};
    size_t count = json_array_size(r->messages), begin = 0, end = 0;
    chat_text *text = add_text(out, whole);
    bool ok = text;
    for (size_t i = asked; ok && i < count; i++) {
        if (!is_assistant(r, i))
            continue;
        ok = find_answer(r, i, &before, &upto, &begin, &end);
        if (!ok)
            break;
        bool stays = upto.text.length <= whole->length && memcmp(upto.text.data, whole->data, upto.text.length) == 0;
        chat_text *to = stays ? &out->items[0] : add_text(out, &upto.text);
        ok = to && add_span(to, begin, end);
    }
    /* the whole is left out when all that is learned stands in other texts */
    if (ok && out->count > 1 && !out->items[0].learned.count) {
        chat_text first = out->items[0];
        memmove(out->items, out->items + 1, (out->count - 1) * sizeof *out->items);
        out->items[--out->count] = first;
    }
    cb_jinja_output_free(&before);
    cb_jinja_output_free(&upto);
    return ok;
}

bool cb_chat_learn(const cb_chat *chat, const json_t *conversation, size_t asked, bool completion_only, chat_texts *out)
{
    rendering r;
    cb_jinja_output whole = {0}, prompt = {0};
    out->count = 0;
    bool ok = rendering_open(&r, chat, conversation) && render(&r, json_array_size(r.messages), false, &whole);
    if (ok && (!completion_only || (chat->marks && !whole.generation_unplaced))) {
        chat_text *text = add_text(out, &whole.text);
        ok = text && (!asked || render(&r, asked, false, &prompt)); /* to count what is marked there */
        for (size_t i = prompt.generation_count; ok && i < whole.generation_count; i++)
            ok = add_span(text, whole.generation[i].begin, whole.generation[i].end);
    } else if (ok) {
        ok = learn_by_prefixes(&r, asked, &whole.text, out);
    }
    cb_jinja_output_free(&whole);
    cb_jinja_output_free(&prompt);
    rendering_close(&r);
    return ok;
}
