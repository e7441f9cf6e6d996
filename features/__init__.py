"""From three tables to features as of a cut-off, registered in Feast."""
