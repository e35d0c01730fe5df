/* manual.c: the manual page (`cambium help --man`) and docs/commands.md (`cambium help --markdown`), from the same
 * tables as --help. */

#include "cli/cli.h"

/* ---- troff ---- */

/* Text as troff takes it: backslashes and dashes spelt out, no line that begins with a control character. */
static bool troff_text(const char *text, cb_string *out)
{
    bool ok = true, start = true;
    for (; *text && ok; text++) {
        if (start && (*text == '.' || *text == '\''))
            ok = cb_string_puts(out, "\\&");
        if (*text == '\\')
            ok = ok && cb_string_puts(out, "\\e");
        else if (*text == '-')
            ok = ok && cb_string_puts(out, "\\-");
        else
            ok = ok && cb_string_append(out, text, 1);
        start = *text == '\n';
    }
    return ok;
}

static bool troff_line(const char *before, const char *text, const char *after, cb_string *out)
{
    return cb_string_puts(out, before) && troff_text(text, out) && cb_string_puts(out, after);
}

static bool troff_options(const cb_option *table, cb_string *out)
{
    bool ok = true;
    for (const cb_option *o = table; o->type && ok; o++) {
        cb_string flag = {0}, text = {0};
        ok = cli_option_flag(o, &flag) && cli_option_describe(o, &text) && troff_line(".TP\n.B ", flag.data, "\n", out) &&
             troff_line("", text.data, "\n", out);
        cb_string_free(&flag);
        cb_string_free(&text);
    }
    return ok;
}

static bool troff_command(const cli_command *c, cb_string *out)
{
    bool ok = cb_string_printf(out, ".SH %s ", CLI_PROGRAM) && troff_line("", c->name, "\n", out) &&
              cb_string_printf(out, ".B %s %s\n", CLI_PROGRAM, c->name) && troff_line("", c->synopsis, "\n.PP\n", out) &&
              troff_line("", c->description, "\n", out);
    cli_section sections[CLI_MOST_SECTIONS];
    int count = cli_sections(c, NULL, NULL, sections) - 1; /* the common ones stand once, at the end */
    for (int i = 0; i < count && ok; i++)
        ok = cb_string_puts(out, ".SS ") && (!sections[i].kind || cb_string_puts(out, "Adapter kind ")) &&
             troff_line("", sections[i].title, "\n", out) && troff_options(sections[i].table, out);
    ok = ok && cb_string_puts(out, ".SS Examples\n.nf\n");
    for (const char *const *line = c->examples; *line && ok; line++)
        ok = troff_line("", *line, "\n", out);
    return ok && cb_string_puts(out, ".fi\n");
}

bool cli_manual(cb_string *out)
{
    bool ok = cb_string_printf(out,
                               ".TH CAMBIUM 1 \"\" \"%s %s\" \"User commands\"\n.SH NAME\n%s \\- adapts pre\\-trained models\n"
                               ".SH SYNOPSIS\n.B %s\nCOMMAND [arguments] [options]\n.SH DESCRIPTION\n"
                               "Fine\\-tunes, evaluates, merges and runs language models in the Hugging Face formats.\n"
                               "Results go to standard output, one line per failure to standard error.\n"
                               "Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.\n"
                               "An option is given as \\-\\-name value or \\-\\-name=value; what is on or off as \\-\\-name or "
                               "\\-\\-no\\-name.\n",
                               CLI_PROGRAM, CB_VERSION, CLI_PROGRAM, CLI_PROGRAM);
    for (const cli_command *const *c = cli_commands(); *c && ok; c++)
        ok = troff_command(*c, out);
    return ok && cb_string_puts(out, ".SH OPTIONS OF EVERY COMMAND\n") && troff_options(cli_common_table, out);
}

/* ---- Markdown ---- */

/* Text inside a table: bars and angle brackets would be taken for markup. */
static bool markdown_cell(const char *text, cb_string *out)
{
    bool ok = true;
    for (; *text && ok; text++)
        ok = *text == '|' ? cb_string_puts(out, "\\|") : *text == '<' ? cb_string_puts(out, "&lt;") : cb_string_append(out, text, 1);
    return ok;
}

static bool markdown_options(const cb_option *table, cb_string *out)
{
    bool ok = cb_string_puts(out, "| option | meaning |\n|---|---|\n");
    for (const cb_option *o = table; o->type && ok; o++) {
        cb_string flag = {0}, text = {0};
        ok = cli_option_flag(o, &flag) && cli_option_describe(o, &text) && cb_string_printf(out, "| `%s` | ", flag.data) &&
             markdown_cell(text.data, out) && cb_string_puts(out, " |\n");
        cb_string_free(&flag);
        cb_string_free(&text);
    }
    return ok && cb_string_puts(out, "\n");
}

static bool markdown_command(const cli_command *c, cb_string *out)
{
    bool ok = cb_string_printf(out, "## %s %s\n\n%c%s.\n\n```\n%s %s %s\n```\n\n%s\n\n", CLI_PROGRAM, c->name, c->summary[0] & ~0x20,
                               c->summary + 1, CLI_PROGRAM, c->name, c->synopsis, c->description);
    cli_section sections[CLI_MOST_SECTIONS];
    int count = cli_sections(c, NULL, NULL, sections) - 1;
    for (int i = 0; i < count && ok; i++) {
        const cb_adapter_kind *kind = sections[i].kind;
        ok = (kind ? cb_string_printf(out, "### Adapter kind `%s`\n\n%s (%s).\n\n", kind->name, kind->summary, kind->paper)
                   : cb_string_printf(out, "### %s\n\n", sections[i].title)) &&
             markdown_options(sections[i].table, out);
    }
    ok = ok && cb_string_puts(out, "### Examples\n\n```\n");
    for (const char *const *line = c->examples; *line && ok; line++)
        ok = cb_string_printf(out, "%s\n", *line);
    return ok && cb_string_puts(out, "```\n\n");
}

bool cli_markdown(cb_string *out)
{
    bool ok =
        cb_string_printf(out,
                         "# The commands of `%s`\n\nWritten by `%s help --markdown` from the option tables; change those.\n\n"
                         "Results go to standard output: text for people, or with `--json` one JSON object a line, the last one final.\n"
                         "Standard error carries one line per warning or failure, and the progress line of a terminal.\n"
                         "Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted. The first Ctrl-C stops a long run at its next\n"
                         "step, where it leaves a checkpoint; the second ends at once.\n\n"
                         "An option is given as `--name value` or `--name=value`; what is on or off as `--name` or `--no-name`. Dashes "
                         "and\n"
                         "underscores are the same. Lists take commas, and go on when the option is given again. `--` ends the "
                         "options.\n"
                         "`-o` is `--output`, `-j` `--threads`, `-q` `--quiet`, `-h` `--help`.\n\n",
                         CLI_PROGRAM, CLI_PROGRAM);
    for (const cli_command *const *c = cli_commands(); *c && ok; c++)
        ok = markdown_command(*c, out);
    return ok && cb_string_puts(out, "## Options of every command\n\n") && markdown_options(cli_common_table, out);
}
