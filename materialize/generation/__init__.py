"""Generations: planned, scored, gated, flipped, rolled back and collected, with a catalogue of it all."""
