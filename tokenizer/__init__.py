"""Text to ids and back: normalisation, SentencePiece subwords, sentence splitting."""
