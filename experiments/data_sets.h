/* data_sets.h: the data sets that experiments and the zoo ask for: what each is, whose, and on what terms. */
#ifndef EXPERIMENTS_DATA_SETS_H
#define EXPERIMENTS_DATA_SETS_H

typedef struct data_set {
    const char *name;    /* of its directory below CAMBIUM_DATA */
    const char *title;   /* what is used of it */
    const char *origins; /* where that comes from: repositories and authors */
    const char *terms;   /* licences, and what results must say */
    const char *package; /* a Debian package that has it, in `directory`; NULL: none */
    const char *directory;
} data_set;

const data_set *data_sets(void); /* ends with name NULL */
/* Where a set is: below the directory of data sets, else where its package puts it.  NULL: nowhere; free with cb_free(). */
char *data_set_place(const data_set *set);
char *data_set_need(const char *name); /* the same by name; nowhere is an error */

#endif
