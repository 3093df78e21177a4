/* Everything that bindgen reads. */
#include "ggml.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "gguf.h"
#include "llama.h"
#include "guard.h"
#include "kernels.h"
