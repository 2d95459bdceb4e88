"""Results into tables: pooled seeds, ranks with intervals, the rules behind them."""
