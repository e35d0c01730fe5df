/* test_pareto.c: weights of objectives that pull apart, against every point of a grid. */
#include <math.h>

#include "cambium/optim.h"
#include "core_fixtures.h"

enum { N = 3, WIDTH = 5, CASES = 40, GRID = 200 };

typedef struct problem {
    double gradients[N][WIDTH], guide_gradient[WIDTH], gram[N * N], guide[N];
} problem;

static double product(const double *a, const double *b, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

static problem draw(uint64_t seed, double agreement)
{
    problem p;
    cb_rng rng = {.seed = seed};
    for (int c = 0; c < WIDTH; c++) {
        double common = cb_rng_normal(&rng);
        p.guide_gradient[c] = cb_rng_normal(&rng) + agreement * common;
        for (int i = 0; i < N; i++)
            p.gradients[i][c] = (cb_rng_normal(&rng) + agreement * common) * (i + 1);
    }
    for (int i = 0; i < N; i++) {
        p.guide[i] = product(p.gradients[i], p.guide_gradient, WIDTH);
        for (int k = 0; k < N; k++)
            p.gram[i * N + k] = product(p.gradients[i], p.gradients[k], WIDTH);
    }
    return p;
}

/* How far each objective descends along the weighed sum, at least: guided, that which agrees with the guide most does not rise, and those that disagree
 * with it rise no more than along the guide. */
static void bounds_of(const problem *p, bool guided, double *bounds)
{
    int first = 0;
    for (int i = 0; i < N; i++)
        first = p->guide[i] > p->guide[first] ? i : first;
    bool none = p->guide[first] <= 0;
    for (int i = 0; i < N; i++)
        bounds[i] = !guided || none || i == first ? 0 : p->guide[i] <= 0 ? p->guide[i] : -INFINITY;
}

static bool holds(const problem *p, const double *bounds, const double *x, double allowed)
{
    for (int i = 0; i < N; i++)
        if (x[i] < -allowed || product(p->gram + i * N, x, N) < bounds[i] - allowed)
            return false;
    return true;
}

static double goal_of(const problem *p, bool guided, const double *x)
{
    double sum = 0;
    for (int i = 0; i < N; i++)
        sum += guided ? p->guide[i] * x[i] : product(p->gram + i * N, x, N);
    return sum;
}

static void no_point_of_a_grid_is_better(void **state)
{
    (void)state;
    int solved = 0;
    for (uint64_t seed = 1; seed <= CASES; seed++)
        for (int guided = 0; guided < 2; guided++) {
            const problem p = draw(seed, seed % 3 ? 0.3 : 1);
            double x[N], bounds[N], scale = p.gram[0] + p.gram[4] + p.gram[8], best = -INFINITY;
            bounds_of(&p, guided, bounds);
            assert_true(cb_pareto_weights(p.gram, guided ? p.guide : NULL, N, x));
            assert_true(fabs(x[0] + x[1] + x[2] - 1) < 1e-9);
            for (int a = 0; a <= GRID; a++)
                for (int b = 0; a + b <= GRID; b++) {
                    const double y[N] = {(double)a / GRID, (double)b / GRID, (double)(GRID - a - b) / GRID};
                    if (holds(&p, bounds, y, 0))
                        best = fmax(best, goal_of(&p, guided, y));
                }
            if (!isfinite(best)) /* equal weights, then, or a vertex between the points */
                continue;
            solved++;
            assert_true(holds(&p, bounds, x, 1e-8 * scale));
            assert_true(goal_of(&p, guided, x) >= best - 1e-8 * scale);
        }
    assert_true(solved > CASES);
}

/* Gradients that are all one: any weights make that of them. */
static void equal_gradients_make_themselves(void **state)
{
    (void)state;
    const double gram[] = {2, 2, 2, 2, 2, 2, 2, 2, 2}, guide[] = {1, 1, 1};
    double x[N];
    assert_true(cb_pareto_weights(gram, guide, N, x));
    assert_true(fabs(x[0] + x[1] + x[2] - 1) < 1e-12 && x[0] >= 0 && x[1] >= 0 && x[2] >= 0);
}

/* Two that are opposed: the weights at which neither is hurt, and at which their sum is nothing. */
static void opposed_gradients_cancel(void **state)
{
    (void)state;
    const double gram[] = {4, -2, -2, 1};
    double x[2];
    assert_true(cb_pareto_weights(gram, NULL, 2, x));
    assert_true(fabs(x[0] - 1.0 / 3) < 1e-9 && fabs(x[1] - 2.0 / 3) < 1e-9);
}

static void ties_and_nothing_are_decided_the_same_way(void **state)
{
    (void)state;
    const double apart[] = {1, 0, 0, 0, 1, 0, 0, 0, 1}, none[N * N] = {0}, guide[N] = {0};
    double x[N] = {0}, y[N] = {0};
    assert_true(cb_pareto_weights(apart, guide, N, x) && cb_pareto_weights(apart, guide, N, y));
    for (int i = 0; i < N; i++)
        assert_true(x[i] == y[i]);
    assert_true(cb_pareto_weights(none, NULL, N, x));
    assert_true(fabs(x[1] - 1.0 / N) < 1e-12);
    assert_true(cb_pareto_weights((double[]){3}, NULL, 1, x) && x[0] == 1);
    assert_false(cb_pareto_weights(apart, NULL, CB_MOST_OBJECTIVES + 1, x));
    assert_int_equal(cb_error_status(), CB_ERR_ARGUMENT);
}

static double square_of(const problem *p, const double *x)
{
    double sum = 0;
    for (int i = 0; i < N; i++)
        sum += x[i] * product(p->gram + i * N, x, N);
    return sum;
}

/* No point of a grid is shorter; and the sum descends on every objective by its own square at least, which is what makes it the shortest. */
static void the_sum_of_least_norm_descends_on_all(void **state)
{
    (void)state;
    int inner = 0, outer = 0;
    for (uint64_t seed = 1; seed <= CASES; seed++) {
        const problem p = draw(seed, seed % 3 ? 0.3 : 1);
        double x[N], scale = p.gram[0] + p.gram[4] + p.gram[8];
        assert_true(cb_least_norm_weights(p.gram, N, x));
        assert_true(fabs(x[0] + x[1] + x[2] - 1) < 1e-12 && x[0] >= 0 && x[1] >= 0 && x[2] >= 0);
        double square = square_of(&p, x);
        for (int i = 0; i < N; i++)
            assert_true(product(p.gram + i * N, x, N) >= square - 1e-12 * scale);
        for (int a = 0; a <= GRID; a++)
            for (int b = 0; a + b <= GRID; b++) {
                const double y[N] = {(double)a / GRID, (double)b / GRID, (double)(GRID - a - b) / GRID};
                assert_true(square <= square_of(&p, y) + 1e-12 * scale);
            }
        inner += x[0] > 0 && x[1] > 0 && x[2] > 0;
        outer += x[0] == 0 || x[1] == 0 || x[2] == 0;
    }
    assert_true(inner > 2 && outer > 2);
}

static void special_sums_of_least_norm(void **state)
{
    (void)state;
    const double opposed[] = {4, -2, -2, 1}, shorter[] = {1, 3, 3, 10}, equal[] = {2, 2, 2, 2, 2, 2, 2, 2, 2}, none[N * N] = {0};
    double x[N];
    assert_true(cb_least_norm_weights(opposed, 2, x));
    assert_true(fabs(x[0] - 1.0 / 3) < 1e-12 && fabs(x[1] - 2.0 / 3) < 1e-12);
    assert_true(cb_least_norm_weights(shorter, 2, x));
    assert_true(x[0] == 1 && x[1] == 0);
    assert_true(cb_least_norm_weights(equal, N, x));
    assert_true(x[0] == 1 && x[1] == 0 && x[2] == 0); /* the first of equal ones */
    assert_true(cb_least_norm_weights(none, N, x));
    assert_true(fabs(x[2] - 1.0 / N) < 1e-12);
    assert_false(cb_least_norm_weights(none, 0, x));
    assert_int_equal(cb_error_status(), CB_ERR_ARGUMENT);
}

#define TEST(function) cmocka_unit_test_setup(function, clear_error)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(no_point_of_a_grid_is_better),
        TEST(equal_gradients_make_themselves),
        TEST(opposed_gradients_cancel),
        TEST(ties_and_nothing_are_decided_the_same_way),
        TEST(the_sum_of_least_norm_descends_on_all),
        TEST(special_sums_of_least_norm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
