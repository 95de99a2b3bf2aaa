"""Models on disk: tags, versions, manifests, atomic writes."""
