/* arguments.c: a command line becomes a settings struct, by the option tables of the command.
 *
 * --name value, --name=value; --name and --no-name for what is on or off; "--" ends options.  Dashes and underscores
 * are the same.  A list or map given more than once is joined.  Options of adapter kinds are kept as text, since there is
 * no adapter yet; cb_adapter_set() checks them. */
#include <stdarg.h>
#include <string.h>

#include "cli/cli.h"

bool cli_refuse(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char message[1024];
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    cb_fail(CB_ERR_ARGUMENT, "%s", message);
    return false;
}

bool cli_usage(cli_call *call, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char message[1024];
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    call->usage = true;
    cb_fail(CB_ERR_ARGUMENT, "%s; see %s %s --help", message, CLI_PROGRAM, call->command->name);
    return false;
}

/* ---- finding an option ---- */

typedef struct match {
    const cb_option *option;
    void *config; /* NULL: an adapter's */
} match;

/* PEFT's own name of an adapter option ("lora_alpha") is as good as ours. */
static const cb_option *find_peft_name(const cb_adapter_kind *kind, const char *name)
{
    cb_string plain = {0};
    cb_string_puts(&plain, name);
    for (size_t i = 0; i < plain.length; i++)
        if (plain.data[i] == '-')
            plain.data[i] = '_';
    const cb_option *found = NULL;
    for (const char *const *pair = kind->peft_names; !found && pair && pair[0]; pair += 2)
        if (plain.data && strcmp(pair[1], plain.data) == 0)
            found = cb_options_find(kind->options, pair[0]);
    cb_string_free(&plain);
    return found;
}

/* The adapter kind that the line names; NULL: none. */
static const char *kind_on_line(int count, char **words)
{
    static const char *const flags[] = {"--kind", "--adapter-kind"};
    for (int i = 0; i < count && strcmp(words[i], "--") != 0; i++)
        for (int f = 0; f < 2; f++) {
            size_t length = strlen(flags[f]);
            if (strncmp(words[i], flags[f], length) != 0)
                continue;
            if (words[i][length] == '=')
                return words[i] + length + 1;
            if (!words[i][length] && i + 1 < count)
                return words[i + 1];
        }
    return NULL;
}

/* Several kinds may have an option of one name and different types: those of the kind on the line go before the others'. */
static match find(cli_call *call, const char *name)
{
    cli_section sections[CLI_MOST_SECTIONS];
    int count = cli_sections(call->command, call->settings, &call->common, sections);
    for (int others = 0; others < 2; others++)
        for (int i = 0; i < count; i++) {
            const cb_adapter_kind *kind = sections[i].kind;
            bool other = kind && call->kind && strcmp(kind->name, call->kind) != 0;
            const cb_option *option = other == others ? cb_options_find(sections[i].table, name) : NULL;
            if (!option && other == others && kind)
                option = find_peft_name(kind, name);
            if (option)
                return (match){option, sections[i].config};
        }
    return (match){0};
}

static bool add_once(cb_string_list *list, const char *text)
{
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->items[i], text) == 0)
            return true;
    return cb_string_list_add(list, text);
}

static void unknown(cli_call *call, const char *name)
{
    cli_section sections[CLI_MOST_SECTIONS];
    int count = cli_sections(call->command, call->settings, &call->common, sections);
    cb_string_list names = {0};
    for (int i = 0; i < count; i++)
        for (const cb_option *o = sections[i].table; o->type; o++)
            add_once(&names, o->name);
    cb_string close = {0}, flags = {0};
    cb_closest_names(name, (const char *const *)names.items, names.count, 3, &close);
    for (size_t i = 0; i < close.length; i++) {
        bool start = i == 0 || close.data[i - 1] == ' ';
        cb_string_printf(&flags, "%s%c", start ? "--" : "", close.data[i] == '_' ? '-' : close.data[i]);
    }
    cli_usage(call, "unknown option --%s; close names: %s", name, flags.data ? flags.data : "none");
    cb_string_free(&flags);
    cb_string_free(&close);
    cb_string_list_free(&names);
}

/* ---- setting it ---- */

void cli_blame(cli_call *call, const char *option)
{
    char *message = cb_strdup(cb_error_message());
    cb_status status = cb_error_status();
    size_t length = strlen(option);
    call->usage = true;
    if (!message || status == CB_ERR_MEMORY || strncmp(message, option, length) != 0) {
        cb_free(message);
        return;
    }
    for (size_t i = 0; i < length; i++)
        if (message[i] == '_')
            message[i] = '-';
    cb_error_clear();
    cb_fail(status, "--%s", message);
    cb_free(message);
}

static bool set_adapter(cli_call *call, const cb_option *option, const char *value)
{
    bool joins = option->type == CB_OPTION_LIST || option->type == CB_OPTION_MAP;
    for (size_t i = 0; i < call->adapter_count; i++)
        if (joins && strcmp(call->adapter[i].name, option->name) == 0) {
            char *joined = cb_format("%s,%s", call->adapter[i].value, value);
            if (!joined)
                return false;
            cb_free(call->adapter[i].value);
            call->adapter[i].value = joined;
            return true;
        }
    if (!cb_grow(&call->adapter, &call->adapter_capacity, call->adapter_count + 1, sizeof *call->adapter))
        return false;
    cli_pair *pair = &call->adapter[call->adapter_count];
    *pair = (cli_pair){cb_strdup(option->name), cb_strdup(value)};
    call->adapter_count++;
    return pair->name && pair->value;
}

/* A list that is given again goes on where it was. */
static bool set_list_again(const cb_option *option, void *config, const char *value)
{
    cb_string_list *list = (cb_string_list *)((char *)config + option->offset), before = *list;
    const cb_option table[] = {*option, CB_OPT_END};
    *list = (cb_string_list){0};
    bool ok = cb_options_set(table, config, option->name, value);
    for (size_t i = 0; ok && i < list->count; i++)
        ok = cb_string_list_add(&before, list->items[i]);
    cb_string_list_free(list);
    *list = before;
    return ok;
}

static bool was_given(const cli_call *call, const cb_option *option)
{
    for (size_t i = 0; i < call->given_count; i++)
        if (call->given[i] == option)
            return true;
    return false;
}

static bool set(cli_call *call, match m, const char *value)
{
    bool again = was_given(call, m.option);
    if (!again && !cb_grow(&call->given, &call->given_capacity, call->given_count + 1, sizeof *call->given))
        return false;
    const cb_option table[] = {*m.option, CB_OPT_END};
    bool ok = !m.config                                   ? set_adapter(call, m.option, value)
              : again && m.option->type == CB_OPTION_LIST ? set_list_again(m.option, m.config, value)
                                                          : cb_options_set(table, m.config, m.option->name, value);
    if (!ok)
        cli_blame(call, m.option->name);
    else if (!again)
        call->given[call->given_count++] = m.option;
    return ok;
}

/* One option; `word` is what follows the two dashes.  *taken: the next word was its value. */
static bool option_word(cli_call *call, const char *word, const char *next, bool *taken)
{
    const char *equals = strchr(word, '=');
    char *name = cb_strndup(word, equals ? (size_t)(equals - word) : strlen(word));
    if (!name)
        return false;
    match m = find(call, name);
    bool off = !m.option && !equals && strncmp(name, "no", 2) == 0 && (name[2] == '-' || name[2] == '_');
    if (off) {
        m = find(call, name + 3);
        off = m.option && m.option->type == CB_OPTION_BOOL;
        if (!off)
            m.option = NULL;
    }
    bool ok = m.option;
    if (!ok) {
        unknown(call, name);
    } else if (m.option->type == CB_OPTION_BOOL) {
        ok = set(call, m, equals ? equals + 1 : off ? "false" : "true");
    } else if (equals) {
        ok = set(call, m, equals + 1);
    } else if (!next || (strncmp(next, "--", 2) == 0 && next[2])) {
        ok = cli_usage(call, "--%s: found %s, expected a value (%s)", name, next ? next : "nothing",
                       m.option->metavar ? m.option->metavar : "TEXT");
    } else {
        *taken = true;
        ok = set(call, m, next);
    }
    cb_free(name);
    return ok;
}

static const char *short_option(const char *word)
{
    static const char *const pairs[][2] = {{"-h", "help"}, {"-o", "output"}, {"-j", "threads"}, {"-q", "quiet"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (strcmp(word, pairs[i][0]) == 0)
            return pairs[i][1];
    return NULL;
}

/* ---- the whole line ---- */

static bool words_parse(cli_call *call, int count, char **words)
{
    bool options = true;
    for (int i = 0; i < count; i++) {
        const char *word = words[i], *name = NULL, *next = i + 1 < count ? words[i + 1] : NULL;
        bool taken = false;
        if (options && strcmp(word, "--") == 0)
            options = false;
        else if (options && strncmp(word, "--", 2) == 0)
            name = word + 2;
        else if (options && word[0] == '-' && word[1] && !(name = short_option(word)))
            return cli_usage(call, "unknown option %s", word);
        else if (!name)
            call->arguments[call->argument_count++] = word;
        if (name && !option_word(call, name, next, &taken))
            return false;
        i += taken;
    }
    return true;
}

static bool check(cli_call *call)
{
    const cli_command *c = call->command;
    if (call->argument_count > c->most)
        return cli_usage(call, "unexpected argument \"%s\"", call->arguments[c->most]);
    if (call->argument_count < c->least)
        return cli_usage(call, "an argument is missing: expected %s %s", c->name, c->synopsis);
    for (const char *const *name = c->required; name && *name; name++)
        if (!cli_given(call, *name))
            return cli_usage(call, "--%s is needed", *name);
    return true;
}

bool cli_parse(cli_call *call, const cli_command *command, int count, char **words)
{
    *call = (cli_call){.command = command, .settings = cb_calloc(1, command->settings_size)};
    call->kind = command->adapter_options ? kind_on_line(count, words) : NULL;
    call->arguments = cb_calloc((size_t)count + 1, sizeof *call->arguments);
    if (!call->settings || !call->arguments)
        return false;
    cli_section sections[CLI_MOST_SECTIONS];
    int n = cli_sections(command, call->settings, &call->common, sections);
    for (int i = 0; i < n; i++)
        if (sections[i].config && !cb_options_init(sections[i].table, sections[i].config))
            return false;
    return words_parse(call, count, words) && (call->common.help || check(call));
}

void cli_call_free(cli_call *call)
{
    cli_section sections[CLI_MOST_SECTIONS];
    int n = call->settings ? cli_sections(call->command, call->settings, &call->common, sections) : 0;
    for (int i = 0; i < n; i++)
        if (sections[i].config)
            cb_options_free(sections[i].table, sections[i].config);
    for (size_t i = 0; i < call->adapter_count; i++) {
        cb_free(call->adapter[i].name);
        cb_free(call->adapter[i].value);
    }
    cb_free(call->adapter);
    cb_free(call->given);
    cb_free(call->arguments);
    cb_free(call->settings);
    *call = (cli_call){0};
}

bool cli_given(const cli_call *call, const char *option)
{
    for (size_t i = 0; i < call->given_count; i++) {
        const cb_option table[] = {*call->given[i], CB_OPT_END};
        if (cb_options_find(table, option))
            return true;
    }
    return false;
}
