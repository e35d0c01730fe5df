/* evidence.h: floor 3: experiments: a claim, the arms that are set against each other, and what their runs say.
 *
 * An experiment declares measures, arms and comparisons, and has two functions: `prepare` makes what all runs share, `run` trains and
 * judges one arm with one seed.  Every run leaves a record; a result is worked out from records alone, so runs may be made in any order,
 * by several processes, and are not repeated.  An arm with a grid is tuned first: each value with seed 0, judged on the validation part;
 * the runs that count have the best value and seeds 1, 2, ..., and are judged on the test part. */
#ifndef CAMBIUM_EVIDENCE_H
#define CAMBIUM_EVIDENCE_H

#include "cambium/core.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cb_experiment cb_experiment;

/* A number that runs give. */
typedef struct cb_measure {
    const char *name;  /* "accuracy" */
    const char *unit;  /* as shown: "%"; "" */
    double scale;      /* shown times this: 100; 0: 1 */
    int digits;        /* as shown, after the point */
    bool lower;        /* lower is better */
    bool aside;        /* not in the table of arms */
    const char *curve; /* it is a point of this curve, at x: drawn; NULL: it is not */
    double x;
} cb_measure;

typedef struct cb_arm {
    const char *name;     /* "LoRA, rank 8" */
    const char *uses;     /* its runs go on from what those of this arm with the same seed left behind; NULL */
    const double *grid;   /* values to choose from by the experiment's first measure, ends with 0; NULL: nothing is tuned */
    const void *settings; /* the experiment's own */
} cb_arm;

/* What is claimed: that `arm` is better than `against` by more than `margin` (in shown units; a negative margin: no worse than by so much). */
typedef struct cb_comparison {
    const char *text;
    const char *measure, *arm, *against;
    double margin;
    const char *paper; /* the paper's own figure, in words */
} cb_comparison;

/* What `run` and `prepare` are told.  Paths are those of directories that exist. */
typedef struct cb_run {
    const cb_experiment *experiment;
    const cb_arm *arm;     /* NULL: preparing */
    uint64_t seed;         /* 0: tuning, or for the tuning of what uses it */
    double value;          /* of the arm's grid; 0 without one */
    bool validation;       /* judged by the validation part, else by the test part */
    bool quick;            /* a smoke run: seconds; its figures mean nothing */
    const char *data;      /* the data sets' directory; NULL: there is none, and it is a quick run, which makes do with made-up data */
    const char *shared;    /* what `prepare` leaves */
    const char *directory; /* what this run leaves */
    const char *uses;      /* what the run that it goes on from has left; NULL */
} cb_run;

/* What a run gives. */
typedef struct cb_outcome cb_outcome;
CB_API bool cb_outcome_value(cb_outcome *outcome, const char *measure, double value);
/* The mean of n items (the same items in the same order in every run): 1 or 0 for each example, ...  Comparisons resample them. */
CB_API bool cb_outcome_items(cb_outcome *outcome, const char *measure, const double *items, size_t n);
CB_API void cb_outcome_parameters(cb_outcome *outcome, int64_t trained);
/* What else is to be known of how it came about, as JSON text: results have it for each run of an arm. */
CB_API bool cb_outcome_note(cb_outcome *outcome, const char *json);

struct cb_experiment {
    const char *name;        /* "dylora" */
    int system;              /* its number in the table of systems; 0: it is about none of them */
    const char *title;       /* one line */
    const char *claim;       /* what the paper says, in a sentence or two */
    const char *setting;     /* what is done here: base, data, sizes */
    const char *const *data; /* data sets that are needed, ends with NULL */
    int seeds;               /* as committed; at least 3 */
    const cb_measure *measures;
    const cb_arm *arms;
    const cb_comparison *comparisons; /* each table ends with a name (text) NULL */
    bool (*prepare)(const cb_run *run);
    bool (*run)(const cb_run *run, cb_outcome *outcome);
};

/* Whether the tables fit each other. */
CB_API bool cb_experiment_check(const cb_experiment *experiment);
CB_API const cb_arm *cb_experiment_arm(const cb_experiment *experiment, const char *name);         /* NULL with an error */
CB_API const cb_measure *cb_experiment_measure(const cb_experiment *experiment, const char *name); /* NULL with an error */

/* The directory of the data sets: CAMBIUM_DATA, else cambium/data in the user's cache (XDG_CACHE_HOME, ~/.cache), where all of these sets
 * (ends with NULL; may be NULL) must be.  NULL with an error that says where they were looked for.  Free with cb_free(). */
CB_API char *cb_experiment_data(const char *const *sets);

/* ---- one run ---- */

/* A name for a run's record and directory: of the arm, the seed and, when it is tuning, the value.  Free with cb_free(). */
CB_API char *cb_run_name(const cb_arm *arm, uint64_t seed, double value, bool validation);
/* Runs it and writes WORK/NAME.json, atomically; its directory is WORK/NAME. */
CB_API bool cb_run_carry_out(const cb_run *run, const char *record);

/* ---- what the runs say ---- */

/* The grid's best value by the tuning runs' records in a directory, all of which must be there; *value 0 without a grid.  Quick runs try the
 * first one only. */
CB_API bool cb_evidence_tuned(const cb_experiment *experiment, const cb_arm *arm, const char *records, bool quick, double *value);
/* What the records of all arms and of seeds 1 to `seeds` say, as JSON text: with `command`, the machine and versions; free with cb_free().
 * Means of arms have Student's intervals over seeds.  A difference is paired by seed and item: 95 % by bootstrap over both where runs give
 * items, else Student's over seeds.  Its verdict is "shown" when the interval lies beyond the margin, "opposite" when it lies
 * before it, else "not shown"; quick runs have none. */
CB_API char *cb_evidence_result(const cb_experiment *experiment, const char *records, int seeds, bool quick, const char *command);
/* Such a result as a table for people (Markdown); `what` names the text in messages; free with cb_free(). */
CB_API char *cb_evidence_table(const char *what, const char *json);
/* Pictures of it, as PNG and SVG: DIRECTORY/NAME.png: the first measure of every arm with its interval; NAME-CURVE.png for each curve. */
CB_API bool cb_evidence_plots(const char *what, const char *json, const char *directory);

#ifdef __cplusplus
}
#endif
#endif
