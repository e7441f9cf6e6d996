"""The standard features, one file per scope, as Ibis expressions over one table of pair totals."""
