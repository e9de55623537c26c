"""``hub lsp``: inline completions for any editor that speaks the Language Server Protocol."""
