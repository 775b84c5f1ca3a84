//! Exporters of spans and metrics: see `examples/`, and `tests/`, which receive from them.
