"""Ids in, ids out: cells, encoder, attention, decoder, search and checkpoint."""
