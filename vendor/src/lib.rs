//! Carries nothing: this package exists so that cargo fetches and checks the llama.cpp source tree.
