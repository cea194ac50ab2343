"""Recordings of the codec of sparse events; see the README one folder up."""
