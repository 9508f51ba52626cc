"""After a failure: the files with which a person sees it again, without this run.

``write.py`` says which files there are. Nothing here changes a verdict, and nothing runs on a pass.
"""
