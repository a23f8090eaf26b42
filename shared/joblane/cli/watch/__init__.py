"""`joblane watch`: the lists, their keys and dialogs, and the refresh. Textual is imported only by this package."""
