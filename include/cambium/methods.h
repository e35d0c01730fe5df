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

#ifdef __cplusplus
}
#endif
#endif
