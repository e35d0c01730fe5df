/* command.c: the list of commands, and what they have in common. */
#include "cli/cli.h"

static const cli_command *const commands[] = {&cli_train,
                                              &cli_pretrain,
                                              &cli_adapt_pool,
                                              &cli_adapt_active,
                                              &cli_generate,
                                              &cli_embed,
                                              &cli_eval,
                                              &cli_adapt,
                                              &cli_merge,
                                              &cli_extract,
                                              &cli_convert,
                                              &cli_tokenizer_train,
                                              &cli_tokenizer_encode,
                                              &cli_tokenizer_decode,
                                              &cli_tokenizer_convert,
                                              &cli_tie,
                                              &cli_sentinel_convert,
                                              &cli_sentinel_encode,
                                              &cli_inspect,
                                              &cli_methods,
                                              &cli_repro,
                                              &cli_data,
                                              &cli_data_verbalize,
                                              &cli_zoo_list,
                                              &cli_zoo_build,
                                              &cli_bench_gemm,
                                              &cli_bench_lora,
                                              &cli_bench_training,
                                              &cli_bench_generate,
                                              &cli_bench_packing,
                                              NULL};

const cli_command *const *cli_commands(void)
{
    return commands;
}

const cb_option cli_common_table[] = {
    CB_OPT_INT(cli_common, threads, 0, 0, 4096, "threads to compute with; 0: OMP_NUM_THREADS, or all of the machine"),
    CB_OPT_BOOL(cli_common, json, false, "print JSON, one object a line, for programs to read"),
    CB_OPT_BOOL(cli_common, quiet, false, "no progress and no warnings"),
    CB_OPT_BOOL(cli_common, verbose, false, "say more of what is going on"),
    CB_OPT_BOOL(cli_common, help, false, "show this help"),
    CB_OPT_END};

int cli_sections(const cli_command *command, void *settings, cli_common *common, cli_section *sections)
{
    int count = 0;
    for (const cli_group *g = command->groups; g && g->title && count < CLI_MOST_SECTIONS - 2; g++)
        sections[count++] = (cli_section){g->title, g->table, settings ? (char *)settings + g->offset : NULL, NULL};
    for (const cb_adapter_kind *const *k = cb_adapter_kinds(); command->adapter_options && *k && count < CLI_MOST_SECTIONS - 2; k++)
        sections[count++] = (cli_section){(*k)->name, (*k)->options, NULL, *k};
    if (command->adapter_options)
        sections[count++] = (cli_section){"Layers to adapt", cb_target_option_table, NULL, NULL};
    sections[count++] = (cli_section){"Every command", cli_common_table, common, NULL};
    return count;
}
