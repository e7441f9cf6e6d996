"""From features to published predictions: training, scoring, generations, publishing."""
