"""One file per family of codecs: its models under the calls that all families share."""
