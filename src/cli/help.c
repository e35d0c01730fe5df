/* help.c: --help and `cambium help`, from the option tables of the commands. */
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

enum { FLAG_COLUMN = 32, KIND_COLUMN = 26, NARROW = 60, WIDE = 100 };

/* ---- one option ---- */

bool cli_option_flag(const cb_option *option, cb_string *out)
{
    size_t begin = out->length;
    bool on = option->type == CB_OPTION_BOOL && option->number != 0;
    if (!cb_string_printf(out, "--%s%s", on ? "[no-]" : "", option->name))
        return false;
    for (size_t i = begin; i < out->length; i++)
        if (out->data[i] == '_')
            out->data[i] = '-';
    return !option->metavar || cb_string_printf(out, " %s", option->metavar);
}

/* A bound as large as this says "any". */
static const double unbounded = 1e9;

static bool describe_number(const cb_option *o, cb_string *out)
{
    if (!cb_string_printf(out, " [default %.15g; ", o->number))
        return false;
    return o->max >= unbounded ? cb_string_printf(out, "%.15g or more]", o->min) : cb_string_printf(out, "%.15g to %.15g]", o->min, o->max);
}

static bool describe_choices(const cb_option *o, cb_string *out)
{
    bool ok = cb_string_puts(out, " [");
    for (int i = 0; ok && o->choices[i]; i++)
        ok = cb_string_printf(out, "%s%s", i ? ", " : "", o->choices[i]);
    return ok && cb_string_printf(out, "; default %s]", o->choices[(int)o->number]);
}

bool cli_option_describe(const cb_option *option, cb_string *out)
{
    if (!cb_string_puts(out, option->help))
        return false;
    switch (option->type) {
    case CB_OPTION_BOOL:
        return option->number == 0 || cb_string_puts(out, " [default on]");
    case CB_OPTION_INT:
    case CB_OPTION_FLOAT:
        return describe_number(option, out);
    case CB_OPTION_ENUM:
        return describe_choices(option, out);
    case CB_OPTION_STRING:
    case CB_OPTION_LIST:
    case CB_OPTION_MAP:
    case CB_OPTION_END:
        break;
    }
    return !option->text || cb_string_printf(out, " [default %s]", option->text);
}

/* ---- paragraphs ---- */

static int page_width(void)
{
    int width = cli_terminal_width(STDOUT_FILENO);
    return width == 0 || width > WIDE ? WIDE : width < NARROW ? NARROW : width;
}

/* Appends text broken at spaces; every line but the first starts with `indent` spaces.  `column`: where we are. */
static bool wrap(const char *text, int column, int indent, int width, cb_string *out)
{
    bool ok = true, start = true;
    while (*text && ok) {
        size_t word = strcspn(text, " \n");
        if (!start && column + 1 + (int)word > width) {
            ok = cb_string_printf(out, "\n%*s", indent, "");
            column = indent;
            start = true;
        }
        ok = ok && (start || cb_string_puts(out, " ")) && cb_string_append(out, text, word);
        column += (int)word + !start;
        start = false;
        text += word;
        if (*text == '\n') {
            ok = ok && cb_string_printf(out, "\n%*s", indent, "");
            column = indent;
            start = true;
        }
        text += *text != '\0';
    }
    return ok && cb_string_puts(out, "\n");
}

static bool option_lines(const cb_option *option, cb_string *out)
{
    cb_string flag = {0}, text = {0};
    bool ok = cli_option_flag(option, &flag) && cli_option_describe(option, &text);
    int length = (int)flag.length;
    bool fits = length + 4 <= FLAG_COLUMN;
    ok = ok && cb_string_printf(out, "  %s", flag.data) &&
         (fits ? cb_string_printf(out, "%*s", FLAG_COLUMN - length - 2, "") : cb_string_printf(out, "\n%*s", FLAG_COLUMN, "")) &&
         wrap(text.data, FLAG_COLUMN, FLAG_COLUMN, page_width(), out);
    cb_string_free(&flag);
    cb_string_free(&text);
    return ok;
}

static bool section_lines(const cli_section *s, cb_string *out)
{
    bool ok = s->kind ? cb_string_printf(out, "\nAdapter kind %s: %s (%s)\n", s->kind->name, s->kind->summary, s->kind->paper)
                      : cb_string_printf(out, "\n%s\n", s->title);
    for (const cb_option *o = s->table; o->type && ok; o++)
        ok = option_lines(o, out);
    return ok;
}

/* All adapter kinds, before the options of the one that is asked for. */
static bool kind_lines(const cli_section *s, cb_string *out)
{
    bool ok = cb_string_puts(out, "\nAdapter kinds (`--kind NAME --help` shows the options of one)\n");
    for (; s->kind && ok; s++)
        ok = cb_string_printf(out, "  %-*s", KIND_COLUMN - 2, s->kind->name) &&
             wrap(s->kind->summary, KIND_COLUMN, KIND_COLUMN, page_width(), out);
    return ok;
}

/* ---- pages ---- */

bool cli_help_command(const cli_command *command, const char *kind, cb_string *out)
{
    if (command->adapter_options && !cb_adapter_kind_find(kind))
        return false;
    bool ok = cb_string_printf(out, "%s %s: %s\n\nUsage: ", CLI_PROGRAM, command->name, command->summary);
    char *usage = cb_format("%s %s %s", CLI_PROGRAM, command->name, command->synopsis);
    ok = ok && usage && wrap(usage, 7, 11, page_width(), out) && cb_string_puts(out, "\n") &&
         wrap(command->description, 0, 0, page_width(), out);
    cb_free(usage);
    cli_section sections[CLI_MOST_SECTIONS];
    int count = cli_sections(command, NULL, NULL, sections);
    for (int i = 0; i < count && ok; i++) {
        if (sections[i].kind && !sections[i - 1].kind)
            ok = kind_lines(&sections[i], out);
        if (!sections[i].kind || sections[i].kind == cb_adapter_kind_find(kind))
            ok = ok && section_lines(&sections[i], out);
    }
    ok = ok && cb_string_puts(out, "\nExamples\n");
    for (const char *const *line = command->examples; *line && ok; line++)
        ok = cb_string_printf(out, "  %s\n", *line);
    return ok;
}

bool cli_help_overview(cb_string *out)
{
    bool ok = cb_string_printf(out, "%s %s: adapts pre-trained models\n\nUsage: %s COMMAND [arguments] [options]\n\nCommands\n",
                               CLI_PROGRAM, CB_VERSION, CLI_PROGRAM);
    for (const cli_command *const *c = cli_commands(); *c && ok; c++)
        ok = cb_string_printf(out, "  %-18s%s\n", (*c)->name, (*c)->summary);
    return ok && cb_string_printf(out, "  %-18s%s\n  %-18s%s\n\n`%s COMMAND --help` describes a command with its options and examples.\n",
                                  "help", "this page, or that of a command; --man and --markdown for all of them", "completion",
                                  "bash, zsh or fish: a completion script on standard output", CLI_PROGRAM);
}
