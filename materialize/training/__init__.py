"""From events and feature builds to a model bundle: label windows, sampling, training, evaluation."""
