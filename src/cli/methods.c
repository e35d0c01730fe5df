/* methods.c: `cambium methods`: the published systems, and what there is of each. */
#include "cli/cli.h"

static json_t *system_json(const cb_system *s)
{
    return json_pack("{s:i, s:s, s:s, s:s, s:s, s:s, s:s?, s:s?}", "number", s->number, "name", s->name, "title", s->title, "venue",
                     s->venue, "arxiv", s->arxiv, "state", cb_system_state_name(s->state), "how", s->how, "page", s->page);
}

static bool print_one(const cb_system *s)
{
    cli_field("system", "%d %s", s->number, s->name);
    cli_field("paper", "%s", s->title);
    cli_field("", "%s, arXiv:%s", s->venue, s->arxiv);
    cli_field("state", "%s", cb_system_state_name(s->state));
    cli_field("use", "%s", s->how ? s->how : "not yet");
    cli_field("page", "%s", s->page ? s->page : "none yet");
    return true;
}

static bool print_all(void)
{
    cli_table table = {.columns = 4, .right = "rlll"};
    static const char *const heads[] = {"", "system", "state", "paper"};
    for (int i = 0; i < table.columns; i++)
        cli_table_add(&table, "%s", heads[i]);
    for (const cb_system *s = cb_systems(); s->name; s++) {
        cli_table_add(&table, "%d", s->number);
        cli_table_add(&table, "%s", s->name);
        cli_table_add(&table, "%s", cb_system_state_name(s->state));
        cli_table_add(&table, "%.100s", s->title);
    }
    cli_table_print(&table);
    return cb_ok();
}

static bool run(cli_call *call, void *settings)
{
    (void)settings;
    if (call->argument_count) {
        const cb_system *s = cb_system_find(call->arguments[0]);
        return s && (call->common.json ? cli_json(system_json(s)) : print_one(s));
    }
    if (!call->common.json)
        return print_all();
    json_t *list = json_array();
    for (const cb_system *s = cb_systems(); s->name; s++)
        json_array_append_new(list, system_json(s));
    return cli_json(json_pack("{s:o}", "systems", list));
}

const cli_command cli_methods = {
    .name = "methods",
    .summary = "list the published systems and what there is of each",
    .synopsis = "[NAME] [options]",
    .description =
        "Planned: nothing of the system is there yet. Parts: its modules or algorithms are, and tested, but not all of it, or no "
        "experiment shows its claim. Whole: all of it is, with a page and a committed result; `cambium repro NAME` makes it again. "
        "NAME: a system's name or number.",
    .least = 0,
    .most = 1,
    .examples = (const char *const[]){"cambium methods", "cambium methods dylora --json", NULL},
    .run = run};
