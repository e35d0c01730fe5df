/* chat.c: conversations as text, in the formats that models were taught.
 *
 * Which one a tokenizer wants is read off its Jinja template: by the markers that are unmistakably that format's, and by the few things
 * that such templates do differently (a system message of their own, a bos token, white space taken off the ends of a message).  A template
 * that is none of them, or does what cannot be told from its text, is refused by name, never guessed. */
#include <string.h>

#include "data/dataset.h"

const char *const cb_chat_template_names[] = {"auto", "chatml", "llama3", "plain", NULL};
enum { CHAT_AUTO, CHAT_CHATML, CHAT_LLAMA3, CHAT_PLAIN };

static const struct chat_format {
    const char *start; /* before everything */
    const char *role_before, *role_after;
    const char *message_end;   /* what the model says when it is done */
    const char *message_after; /* and what follows that */
    bool trims;
} formats[] = {
    [CHAT_CHATML] = {"", "<|im_start|>", "\n", "<|im_end|>", "\n", false},
    [CHAT_LLAMA3] = {"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>", "", true},
    [CHAT_PLAIN] = {"", "", ": ", "\n", "", false},
};

/* ---- reading a template ---- */

static bool refuse(const char *found)
{
    return cb_fail(CB_ERR_UNSUPPORTED,
                   "the tokenizer's chat_template %s; name a format with --chat-template "
                   "(chatml, llama3, plain)",
                   found) == CB_OK;
}

/* What a conversation's text depends on besides its messages. */
static bool check_plain(const char *template)
{
    static const char *const unreadable[][2] = {{"<think>", "writes out how a model thinks"},
                                                {"reasoning_content", "writes out how a model thinks"},
                                                {"strftime_now", "writes a date"},
                                                {"date_string", "writes a date"}};
    for (size_t i = 0; i < sizeof unreadable / sizeof *unreadable; i++)
        if (strstr(template, unreadable[i][0]))
            return refuse(unreadable[i][1]);
    return true;
}

/* The end of the literal that `at` lies in: at the quotation mark that it begins with, or where an expression begins. */
static const char *literal_end(const char *template, const char *at)
{
    const char *begin = at;
    while (begin > template && !strchr("'\"{}", begin[-1]))
        begin--;
    char quote = begin > template ? begin[-1] : '{';
    if (quote != '\'' && quote != '"')
        quote = '{';
    while (*at && *at != quote)
        at += *at == '\\' && at[1] ? 2 : 1;
    return at;
}

static bool unescape(const char *text, const char *end, cb_string *out)
{
    for (; text < end; text++) {
        bool escaped = *text == '\\' && text + 1 < end;
        text += escaped;
        char c = escaped && *text == 'n' ? '\n' : escaped && *text == 't' ? '\t' : *text;
        if (!cb_string_append(out, &c, 1))
            return false;
    }
    return true;
}

/* A system message that the template has in one piece goes before a conversation that does not begin with one. */
static bool find_system(const char *template, cb_string *system)
{
    static const char before[] = "<|im_start|>system", end[] = "<|im_end|>";
    for (const char *at = template; (at = strstr(at, before));) {
        const char *message = at + strlen(before), *stop = literal_end(template, at), *last = strstr(message, end);
        at = message;
        message += *message == '\n' ? 1 : strncmp(message, "\\n", 2) == 0 ? 2 : 0;
        if (message != at && last && last < stop)
            return unescape(message, last, system);
    }
    return true;
}

static const char *bos_text(const cb_tokenizer *tokenizer)
{
    return cb_tokenizer_token(tokenizer, cb_tokenizer_bos(tokenizer));
}

static bool read_template(chat_style *style, const cb_tokenizer *tokenizer, const char *template)
{
    bool chatml = strstr(template, "<|im_start|>"), llama3 = strstr(template, "<|start_header_id|>");
    if (!chatml && !llama3)
        return refuse("is neither ChatML nor Llama 3");
    if (!check_plain(template) || (chatml && !find_system(template, &style->system)))
        return false;
    style->format = &formats[chatml ? CHAT_CHATML : CHAT_LLAMA3];
    style->start = style->format->start;
    if (strstr(template, "bos_token") && bos_text(tokenizer))
        style->start = bos_text(tokenizer);
    style->trims = strstr(template, "| trim") || strstr(template, "|trim") || strstr(template, ".strip()");
    return true;
}

bool cb_chat_read_style(const cb_tokenizer *tokenizer, int template_index, chat_style *style)
{
    const char *template = cb_tokenizer_chat_template(tokenizer);
    if (template_index == CHAT_AUTO && template)
        return read_template(style, tokenizer, template);
    style->format = &formats[template_index == CHAT_AUTO ? CHAT_PLAIN : template_index];
    style->start = style->format->start;
    style->trims = style->format->trims;
    return true;
}

/* ---- writing a conversation ---- */

/* The length of the white space character at `at`, as Python's strip() knows it; 0: it is none. */
static size_t space_length(const char *at)
{
    static const char *const wide[] = {"\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80", "\xe2\x80\xa8",
                                       "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80"};
    unsigned char c = (unsigned char)*at;
    if ((c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20))
        return 1;
    if (strncmp(at, "\xe2\x80", 2) == 0 && (unsigned char)at[2] >= 0x80 && (unsigned char)at[2] <= 0x8a)
        return 3;
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++)
        if (strncmp(at, wide[i], strlen(wide[i])) == 0)
            return strlen(wide[i]);
    return 0;
}

static bool put_content(const chat_style *style, const char *content, cb_string *text)
{
    if (!style->trims)
        return cb_string_puts(text, content);
    for (size_t n; (n = space_length(content)); content += n)
        ;
    const char *end = content;
    for (const char *at = content; *at;) {
        size_t space = space_length(at);
        at += space ? space : 1;
        end = space ? end : at;
    }
    return cb_string_append(text, content, (size_t)(end - content));
}

/* *end: of what the model is to say of it. */
static bool put_message(const chat_style *style, const char *role, const char *content, cb_string *text, text_span *said)
{
    const chat_format *f = style->format;
    bool ok = cb_string_printf(text, "%s%s%s", f->role_before, role, f->role_after);
    said->begin = text->length;
    ok = ok && put_content(style, content, text) && cb_string_puts(text, f->message_end);
    said->end = text->length;
    return ok && cb_string_puts(text, f->message_after);
}

bool cb_chat_render(const chat_style *style, size_t count, const cb_message *messages, cb_string *text, text_span_list *learned)
{
    text_span said;
    bool ok = cb_string_puts(text, style->start);
    if (ok && style->system.length && (!count || strcmp(messages[0].role, "system") != 0))
        ok = put_message(style, "system", style->system.data, text, &said);
    for (size_t i = 0; ok && i < count; i++) {
        ok = put_message(style, messages[i].role, messages[i].content, text, &said);
        if (!ok || strcmp(messages[i].role, "assistant") != 0)
            continue;
        ok = cb_grow(&learned->items, &learned->capacity, learned->count + 1, sizeof *learned->items);
        if (ok)
            learned->items[learned->count++] = said;
    }
    return ok;
}

bool cb_chat_is_framed(const chat_style *style)
{
    return style->format != &formats[CHAT_PLAIN];
}
