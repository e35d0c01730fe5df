/* pickle.c: a file of torch.save, in either form. */
#include "cambium/formats.h"
#include "fuzz.h"

void fuzz_target(const uint8_t *data, size_t size)
{
    cb_weights *weights = cb_weights_open_file(fuzz_file("pytorch_model.bin", data, size));
    if (fuzz_expect(weights))
        for (size_t i = 0; i < cb_weights_count(weights); i++)
            fuzz_touch(cb_weights_at(weights, i)->data, cb_weights_at(weights, i)->size);
    cb_weights_close(weights);
}
