/* methods.h: floor 6: the published systems that define the scope. */
#ifndef CAMBIUM_METHODS_H
#define CAMBIUM_METHODS_H

#include "cambium/core.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum cb_system_state {
    CB_SYSTEM_PLANNED, /* nothing of it is there that other systems do not bring */
    CB_SYSTEM_PARTS,   /* its modules or algorithms are there, and tested; not yet all, or without evidence */
    CB_SYSTEM_WHOLE    /* all of it is there, with a page and an experiment whose result is committed */
} cb_system_state;

typedef struct cb_system {
    int number;
    const char *name;  /* short, as on the command line */
    const char *title; /* of the paper */
    const char *venue; /* "ICLR 2025"; "preprint 2024" */
    const char *arxiv; /* "2410.20672" */
    cb_system_state state;
    const char *how;  /* what one calls to use it: "cambium train --kind dylora"; NULL: planned */
    const char *page; /* "docs/methods/dylora.md"; NULL: none yet */
} cb_system;

CB_API const cb_system *cb_systems(void); /* in the order of their numbers; ends with a name NULL */
/* By name or number; NULL and CB_ERR_ARGUMENT with close names otherwise. */
CB_API const cb_system *cb_system_find(const char *name);
CB_API const char *cb_system_state_name(cb_system_state state); /* "planned", "parts", "whole" */

/* ---- Relaxed Recursive Transformers (07) ---- */

typedef enum cb_tie_start { CB_TIE_STEPWISE, CB_TIE_AVERAGE, CB_TIE_LOWER, CB_TIE_RANDOM } cb_tie_start;
typedef struct cb_tie_options {
    int64_t shared_layers; /* K; 0: half of them */
    int start;             /* cb_tie_start */
    int64_t rank;          /* of the relaxation; 0: none is made */
    bool svd;              /* it starts from what was tied away, else from nothing */
    bool fold_norms;       /* llama family: norms are multiplied into the linear layers behind them before anything is tied */
    uint64_t seed;
} cb_tie_options;
extern CB_API const cb_option cb_tie_option_table[];
/* Makes a recursive model of a model directory: its L blocks share the weights of K, which start as options say.  `output` becomes a model
 * directory (model_type recursive_...) that cb_model_load() reads, with OUTPUT/relaxation, a LoRA adapter of it, where a rank is given.
 * Bae et al. 2025, arXiv:2410.20672. */
CB_API bool cb_tie_layers(const char *directory, const char *output, const cb_tie_options *options);
/* A recursive model as one that every program reads: each block has its own copy of the weights.  Its relaxation fits it as it is. */
CB_API bool cb_untie_layers(const char *directory, const char *output);

#ifdef __cplusplus
}
#endif
#endif
