"""The page and the API of `viewfold serve`, the queue behind them, and the workers that do what is asked.

    app, page        HTTP: FastAPI; what is asked is checked (request) and put into the queue
    queue            SQLite: who asked for what, and how far it is; survives both sides
    supervisor       starts a worker process a device, and another one when it dies
    worker, work     one job after another: views, asset, subject; all they say goes through the job's folder

Server and workers meet in the data folder alone.  Imports everything, is imported by `cli` alone.
"""
