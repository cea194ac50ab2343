"""One script per question. Results are kept in `results/`, tables are rendered from them."""
