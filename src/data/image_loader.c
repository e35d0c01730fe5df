/* image_loader.c: threads that make the rows of batches ahead of the one at hand.
 *
 * A ring of slots: the batch that was asked for, and those likely to come next.  Threads take rows of the oldest batch first; whoever asks helps until its
 * batch is whole.  What a row holds depends on its place alone, so that neither the number of threads nor their order shows.  Of several rows
 * that fail the first of the batch is reported. */
#include <pthread.h>
#include <string.h>

#include "data/images.h"

enum { SLOTS = 3, MOST_THREADS = 64, MESSAGE = 512 };

typedef struct slot {
    image_batch_place place;
    bool used;
    uint64_t age;
    int64_t taken, made; /* rows */
    float *pixels;
    size_t room;    /* rows that there is memory for */
    int64_t failed; /* the first row that did; -1: none */
    cb_status status;
    char message[MESSAGE];
} slot;

struct image_loader {
    size_t values;
    image_maker *make;
    void *user;
    slot slots[SLOTS], *held; /* held: its pixels were given out last */
    uint64_t age;
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    pthread_t threads[MOST_THREADS];
    int thread_count;
    bool stop;
};

static slot *oldest_with_work(image_loader *l)
{
    slot *best = NULL;
    for (int i = 0; i < SLOTS; i++) {
        slot *s = &l->slots[i];
        if (s->used && s->taken < s->place.count && (!best || s->age < best->age))
            best = s;
    }
    return best;
}

static void note_failure(slot *s, int64_t row)
{
    if (s->failed >= 0 && s->failed < row)
        return;
    s->failed = row;
    s->status = cb_error_status();
    strncpy(s->message, cb_error_message(), MESSAGE - 1);
}

/* Makes the slot's next row; the lock is held before and after it, not meanwhile. */
static void make_row(image_loader *l, slot *s)
{
    int64_t row = s->taken++, place = s->place.sequential ? -1 - (s->place.first + row) : s->place.first + row;
    float *pixels = s->pixels + (size_t)row * l->values;
    pthread_mutex_unlock(&l->lock);
    bool ok = l->make(l->user, place, pixels) && cb_ok();
    pthread_mutex_lock(&l->lock);
    if (!ok)
        note_failure(s, row);
    cb_error_clear();
    s->made++;
    pthread_cond_broadcast(&l->done);
}

static void *serve(void *user)
{
    image_loader *l = user;
    pthread_mutex_lock(&l->lock);
    while (!l->stop) {
        slot *s = oldest_with_work(l);
        if (s)
            make_row(l, s);
        else
            pthread_cond_wait(&l->work, &l->lock);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

image_loader *cb_image_loader_open(int threads, size_t values, image_maker *make, void *user)
{
    image_loader *l = cb_calloc(1, sizeof *l);
    if (!l)
        return NULL;
    l->values = values;
    l->make = make;
    l->user = user;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->work, NULL);
    pthread_cond_init(&l->done, NULL);
    /* fewer threads than were asked for are no failure */
    while (l->thread_count < threads && l->thread_count < MOST_THREADS && pthread_create(&l->threads[l->thread_count], NULL, serve, l) == 0)
        l->thread_count++;
    return l;
}

void cb_image_loader_free(image_loader *l)
{
    if (!l)
        return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_broadcast(&l->work);
    pthread_mutex_unlock(&l->lock);
    for (int i = 0; i < l->thread_count; i++)
        pthread_join(l->threads[i], NULL);
    for (int i = 0; i < SLOTS; i++)
        cb_free(l->slots[i].pixels);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->work);
    pthread_cond_destroy(&l->done);
    cb_free(l);
}

static bool same(image_batch_place a, image_batch_place b)
{
    return a.first == b.first && a.count == b.count && a.sequential == b.sequential;
}

static slot *find(image_loader *l, image_batch_place place)
{
    for (int i = 0; i < SLOTS; i++)
        if (l->slots[i].used && same(l->slots[i].place, place))
            return &l->slots[i];
    return NULL;
}

/* Takes no more rows of it, and waits for those that are being made. */
static void give_up(image_loader *l, slot *s)
{
    s->place.count = s->taken;
    while (s->made < s->taken)
        pthread_cond_wait(&l->done, &l->lock);
    s->used = false;
}

static bool begin(image_loader *l, slot *s, image_batch_place place)
{
    if ((size_t)place.count > s->room) {
        cb_free(s->pixels);
        s->room = 0;
        s->pixels = cb_calloc((size_t)place.count, l->values * sizeof *s->pixels);
        if (!s->pixels)
            return false;
        s->room = (size_t)place.count;
    }
    s->place = place;
    s->taken = s->made = 0;
    s->failed = -1;
    memset(s->message, 0, sizeof s->message);
    s->age = l->age++;
    s->used = true;
    pthread_cond_broadcast(&l->work);
    return true;
}

static slot *free_slot(image_loader *l)
{
    for (int i = 0; i < SLOTS; i++)
        if (!l->slots[i].used)
            return &l->slots[i];
    return NULL;
}

/* Begins what comes after `s`; that there is no memory for it is no failure yet. */
static void look_ahead(image_loader *l, const slot *s, image_batch_place (*next)(void *user, image_batch_place), void *user)
{
    image_batch_place place = s->place;
    for (int i = 1; i < SLOTS; i++) {
        place = next(user, place);
        slot *other = place.count > 0 && !find(l, place) ? free_slot(l) : NULL;
        if (other && !begin(l, other, place))
            cb_error_clear();
    }
}

static slot *find_or_begin(image_loader *l, image_batch_place place)
{
    if (l->held)
        l->held->used = false;
    l->held = NULL;
    slot *s = find(l, place);
    if (s)
        return s;
    for (int i = 0; i < SLOTS; i++)
        if (l->slots[i].used)
            give_up(l, &l->slots[i]);
    return begin(l, &l->slots[0], place) ? &l->slots[0] : NULL;
}

const float *cb_image_loader_get(image_loader *l, image_batch_place place, image_batch_place (*next)(void *user, image_batch_place),
                                 void *user)
{
    if (!cb_ok())
        return NULL;
    pthread_mutex_lock(&l->lock);
    slot *s = find_or_begin(l, place);
    if (s && l->thread_count)
        look_ahead(l, s, next, user);
    while (s && s->made < s->place.count)
        if (s->taken < s->place.count)
            make_row(l, s);
        else
            pthread_cond_wait(&l->done, &l->lock);
    bool ok = s && s->failed < 0;
    if (s && !ok) {
        s->used = false;
        cb_fail(s->status, "%s", s->message);
    }
    l->held = ok ? s : NULL;
    pthread_mutex_unlock(&l->lock);
    return ok ? s->pixels : NULL;
}
