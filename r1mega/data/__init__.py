"""From text to training samples: tokenizers, the toy corpus, files, samples, stores and their order."""
