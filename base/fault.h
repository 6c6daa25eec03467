/*
 * Fault points: named places where a test may end or stop the process that passes by. They are in every build and cost one
 * branch, unless the environment variable SLUICE_FAULT is set when the process begins:
 *
 *     SLUICE_FAULT=nursery.fork.after:3=kill,store.commit.sent=stop
 *
 * Each entry is POINT[:COUNT]=ACTION. At the COUNTth pass (the first, when there is none) the action happens, once:
 *
 *     kill    SIGKILL to this process, as if the machine took it
 *     stop    SIGSTOP to this process, until somebody sends SIGCONT
 *
 * A value that begins with a slash names a file that holds the entries. It is read at every pass and may change at any time;
 * counts are kept in it and an entry that happened is gone from it, so that they hold for all processes together, and a
 * process that was killed does not meet the same entry when it is started again. The value reaches the nursery and native
 * attempts too, since a point's name says whose it is. The points:
 *
 *     store.commit.before     daemon   a batch of writes is ready; its end is not yet on the wire
 *     store.commit.sent       daemon   the batch is sent, its answer unknown
 *     store.commit.after      daemon   the batch is committed, nothing has come of it yet
 *     attempt.spawn.before    daemon   the attempt's row is committed, the nursery knows nothing
 *     attempt.spawn.after     daemon   the nursery was told to fork
 *     attempt.exit.heard      daemon   an exit was told; nothing is noted of it
 *     shadow.begin.before     daemon   a run has ended; its shadow is about to be made
 *     shadow.compare.before   daemon   both have ended, and are about to be compared
 *     shadow.compare.after    daemon   they were; nothing is noted of it
 *     nursery.fork.before     nursery  about to fork
 *     nursery.fork.after      nursery  forked; the daemon does not know
 *     nursery.exit.before     nursery  a child ended; the daemon does not know
 *     nursery.exit.after      nursery  what the daemon was to know is on its way
 *     task.begin              attempt  a native task is about to run
 *     task.end                attempt  a native task has done and reported everything
 *     stage.page.kept         attempt  a page of an API's answer is put aside
 *     stage.kafka.batch       attempt  some of a stream's messages are put aside
 *     stage.kafka.read        attempt  a stream's messages are put aside
 *     stage.finish.before     attempt  the staged file is written, not yet at its place
 *     stage.send.between      attempt  one of a folder's files is on its store
 *     stage.finish.after      attempt  it is at its place
 *     export.finish.before    attempt  the exported file is written, not yet at its place
 *     export.finish.after     attempt  it is at its place
 *     export.messages.sent    attempt  a thousand more messages are handed over to be sent to Kafka
 *     export.batch.after      attempt  MongoDB has some of the documents
 *     export.rows.after       attempt  the other database has all rows; nothing is committed
 *     export.commit.before    attempt  about to have it commit
 *     export.commit.after     attempt  it has committed
 *     write.data.before       attempt  before a table's data files are written
 *     write.data.after        attempt  they are written; no manifest names them
 *     write.commit.before     attempt  about to ask the catalog for the commit
 *     write.commit.after      attempt  the catalog has answered
 *     maintain.data.before    attempt  a compaction is about to write a group's files
 *     maintain.data.after     attempt  they are written
 *     maintain.expire.before  attempt  about to ask the catalog to let snapshots go
 *     maintain.expire.after   attempt  they are gone, their files are not
 *     catalog.commit.before   daemon   an attempt's metadata file is written; its run has no such commit yet
 *     catalog.commit.after    daemon   the run's commit is in the database; the attempt does not know
 *     lake.rebase.before      daemon   a run's appends are about to be put on top of others' commits
 *     lake.rebase.after       daemon   new lists and metadata are written; the run's commits still name the old ones
 *     cleanup.remove.before   attempt  what nobody needs of an attempt's files is known, and all is still there
 *     cleanup.remove.between  attempt  data files, lists and manifests are gone, metadata files are not
 *     cleanup.forget.before   daemon   all are gone, and the rows that told of them are not
 *     lake.publish.before     daemon   a run's (or a task's) commits are about to be asked to become visible
 *     lake.publish.after      daemon   they are visible, or a table has moved; nobody knows
 *     catalog.swap.before     daemon   metadata is written, the pointer is about to be asked to move
 *     catalog.swap.after      daemon   the pointer has moved; the client does not know
 */
#ifndef BASE_FAULT_H
#define BASE_FAULT_H

/* 0 once it is known that no fault is wanted in this process. */
extern int fault_wanted;
/* Only system calls that are allowed between vfork and exec. */
void fault_pass(const char *point);

#define FAULT(point)                                                                                                             \
	do {                                                                                                                     \
		if (fault_wanted)                                                                                                \
			fault_pass(point);                                                                                       \
	} while (0)

#endif
