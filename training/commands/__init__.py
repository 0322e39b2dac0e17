"""The commands of ``ferry-train``, a file each; :mod:`training.cli` puts them together."""
