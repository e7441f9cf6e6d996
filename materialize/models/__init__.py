"""Models once they are trained: which there are, which one is the champion, what may replace it, and models from elsewhere."""
