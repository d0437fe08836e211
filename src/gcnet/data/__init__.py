"""Images: decoding, sources, transforms and loading, and the generated scenes."""
