"""The service's sentences in the reader's language: what an error says, and why a file or a version was left out.

The service says them in English, to programs too. The page knows a sentence again by its form, and says it in its own
language; one that is not listed stays English. The page's scripts do the same in `texts.js`. Of the values in a
sentence only `why` may be a sentence itself: all others are names and numbers, and stay as they are.
"""

from __future__ import annotations

import functools
import re
from typing import Final

from app.web.languages import PLACE, Language, languages
from app.web.navigation import N_

WHY: Final = "why"
SENTENCES: Final = (
    # what is wrong with an upload
    N_("the upload's format is %(what)s; expected zip, tar, tar.gz or parquet"),
    N_("the upload is one part of a split zip archive; join the parts first"),
    N_("the upload has no usable image"),
    N_("the upload has no usable image in a test split or a val split, so there is nothing to keep"),
    N_("these classes have no usable image: %(listed)s"),
    N_("these classes have no usable image to learn from: %(listed)s"),
    N_("these classes are in the val split and not in the train split: %(listed)s; expected every class in train"),
    N_("the task has %(count)s classes; at most %(most)s"),
    N_("the test set has more than %(most)s images, the most that is allowed"),
    N_("the archive has more than %(most)s entries"),
    N_("the archive of %(size)s bytes unpacks to at least %(unpacked)s bytes; at most %(most)s are allowed"),
    N_("the archive unpacks to more than %(most)s bytes"),
    N_(
        "the images have more than %(most)s pixels together, which is the most for an upload of %(size)s bytes; send "
        "it in parts"
    ),
    N_("the entries are compressed by %(names)s, which is not read; expected stored or deflated entries"),
    N_("the zip archive is damaged: %(why)s"),
    N_("the tar archive is damaged: %(why)s"),
    N_("the parquet file is damaged: %(why)s"),
    N_("the entry %(name)s is encrypted"),
    N_("the entry %(name)s is %(kind)s; only files are read"),
    N_("the entry %(name)s has an absolute path; expected paths inside the archive"),
    N_("the entry %(name)s climbs out of the archive with '..'"),
    N_(
        "the archive does not say how its names are encoded, and %(name)s is not %(chosen)s; which encoding is it? "
        "send encoding= with the one that reads the names right (%(readings)s)"
    ),
    N_(
        "every folder (%(folders)s) holds folders of images (%(names)s), so the classes may be on either level; put "
        "one folder per class next to each other, with the images in it"
    ),
    N_(
        "the folders %(splits)s are called like the splits of a data set, but there is no train folder with one folder "
        "per class; expected, for example, train/cat/1.jpg and val/cat/2.jpg"
    ),
    N_(
        "the folder %(name)s holds images and also folders of images (%(folders)s), so it may be one class or a folder "
        "of classes; move the images out of it, or all images of the one class into it"
    ),
    N_("the class name %(name)s has the character U+%(code)s, which cannot be shown; expected visible text"),
    N_("the class name that begins %(name)s has %(count)s characters; expected at most %(most)s"),
    N_(
        "the classes %(one)s and %(other)s differ only by case, width, dots or spaces, or by letters that look the "
        "same; are they one class? then give it one name, else give them names that differ more"
    ),
    N_(
        "the class %(name)s differs from the known class %(known)s only by case, width, dots or spaces, or by letters "
        "that look the same"
    ),
    N_("the class %(name)s is already known; send extend=true to teach more images of it"),
    N_("expected images of the class %(name)s alone, got %(found)s"),
    N_("expected exactly one file, in the field 'archive'"),
    N_("within %(seconds)s s the upload was not checked; send it in parts"),
    N_("the body has %(size)s bytes; at most %(most)s are allowed here"),
    N_("the body is larger than the %(most)s bytes that are allowed here"),
    N_("the spool's disk is full; nothing of the upload was kept"),
    N_("the upload cannot be written down (%(why)s); nothing of it was kept"),
    N_("the archive's directory has %(size)s bytes; at most %(most)s are allowed"),
    N_("the archive of %(count)s entries has more than %(most)s names of folders"),
    N_("an entry of the archive has no name"),
    N_("the entry %(name)s overlaps another part of the archive"),
    N_("the entry %(name)s has a NUL character in its path"),
    N_("the entry %(name)s lies in %(count)s folders; at most %(most)s are read"),
    N_(
        "the folder %(name)s holds folders of images (%(folders)s), and beside it lie folders of images (%(others)s),"
        " so the classes may be on either level; put all classes into one folder, and leave out what is no class"
    ),
    N_("the request has more than %(most)s files"),
    N_("the parquet file needs more than %(most)s MiB of memory to be read; write it in smaller pages"),
    N_("the parquet file is damaged, or needs more than %(most)s MiB of memory to be read; write it in smaller pages"),
    N_("the column 'image' has type %(type)s; expected binary or a struct with 'bytes'"),
    N_("the column 'label' has type %(type)s; expected text or an integer"),
    N_("the table has no column %(name)s; expected image and label, found %(found)s"),
    N_("the table has %(count)s rows; at most %(most)s"),
    N_("the table has more than %(most)s rows"),
    N_("the table has more than %(most)s classes"),
    N_("the table unpacks to %(size)s bytes; at most %(most)s are allowed"),
    N_("the label that begins %(name)s has %(count)s characters; expected at most %(most)s"),
    N_("the label %(label)s has no name; the file's schema names 0 to %(last)s"),
    N_("the compressed data ends early"),
    N_("it ends within the entry %(name)s"),
    N_("it ends within a header"),
    # how an upload was read, and what of it was left out
    N_("the classes are the folders in %(folders)s"),
    N_("the val split is measured on and not learned from; it has the classes %(names)s"),
    N_("there is no test split, so the val split is kept as the test set too"),
    N_("%(count)s files in sub-folders of class folders belong to the classes %(names)s"),
    N_("not in a class folder; expected one folder per class"),
    N_("a test split, which is neither learned from nor measured on"),
    N_("an empty folder"),
    N_("a folder without an image file"),
    N_("an empty file"),
    N_("not an image"),
    N_("hidden"),
    N_("left by macOS"),
    N_("left by Windows"),
    N_("left by a network drive"),
    N_("left by the file system"),
    N_("a lock file of an office program"),
    N_("an archive inside the archive; only images are read"),
    N_("%(size)s bytes; at most %(most)s per image are allowed"),
    N_("compressed by %(method)s, which is not read"),
    N_("damaged inside the archive: %(why)s"),
    N_("damaged inside the archive: its checksum does not match"),
    N_("%(size)s bytes came out, but the archive's directory says %(said)s"),
    N_("no label"),
    N_("no image bytes; paths are not followed"),
    # images
    N_("expected an image, got %(what)s"),
    N_("the %(format)s image is truncated or damaged: %(why)s"),
    N_("the image has %(width)s x %(height)s pixels; at most %(most)s are accepted"),
    N_("the %(format)s image has %(width)s x %(height)s pixels; at most %(most)s are accepted if it is not JPEG"),
    N_("the image has %(size)s bytes; at most %(most)s are allowed"),
    N_("the request has %(count)s images; expected 1 to %(most)s"),
    N_("the request has no image; expected 1 to %(most)s"),
    N_("the request has %(count)s labels; expected 1 to %(most)s"),
    N_("a label is empty or has more than %(most)s characters"),
    N_("a label is given twice"),
    N_("version %(version)s has learned no classes yet; teach it some, or send labels"),
    N_("no version is loaded yet"),
    N_("there was no answer within %(seconds)s s"),
    N_("%(count)s requests are in progress; at most %(most)s are allowed"),
    N_("the server is stopping"),
    N_(
        "the %(format)s image of %(width)s x %(height)s pixels needs %(size)s MiB of memory to be decoded; at most "
        "%(most)s MiB are allowed"
    ),
    N_("the image is HEIC, which this installation cannot read; HEIC needs keepsight[heic]"),
    N_(
        "%(name)s brings the request to %(total)s pixels; at most %(most)s are allowed, of which a JPEG that is "
        "decoded at a fraction of its size counts a quarter of its own"
    ),
    N_("this server read CURRENT %(seconds)s s ago; expected at most %(most)s s ago"),
    # classes and corrections
    N_("the class %(name)s is not known"),
    N_("a class is named twice"),
    N_("%(name)s cannot be swapped with itself"),
    N_("the served version has no class %(name)s; send new_class=true if it is to become a class"),
    N_("taught_as is the right label, so there is nothing to correct in it"),
    N_("no correction waits to be learned"),
    N_("no correction of the number %(number)s waits"),
    N_("%(count)s corrections wait already, and no more are kept; learn them first"),
    N_("%(field)s: the served version has no class %(name)s"),
    N_("a rename takes another name, another prompt, or both"),
    N_("a merge takes the name of what the classes become"),
    N_("there is a class %(name)s; merge the two, or swap their names"),
    N_("already known: %(names)s; choose another name, or set extend to add images to known classes"),
    N_("answer_id: it is the id of the answer to another image"),
    N_("answer_id: there never was a version %(version)s here"),
    N_(
        "the images of %(count)s corrections have %(used)s bytes, this one %(size)s, and at most %(most)s are kept; "
        "learn them first"
    ),
    N_("another process is at the corrections for more than %(seconds)s s"),
    N_("none of the classes of the corrections is known to %(version)s"),
    # test sets
    N_("the test set has %(count)s images; at most %(most)s are allowed"),
    N_("there are %(count)s other test sets; at most %(most)s are allowed"),
    N_("all test sets would have %(size)s bytes together; at most %(most)s are allowed"),
    # versions, and what moves them
    N_("there is no version %(version)s in the store"),
    N_("another version is being rolled out; nothing moved"),
    N_("%(version)s cannot be served, nothing moved; %(why)s"),
    N_("%(servers)s did not prepare %(version)s within %(seconds)s s"),
    N_("the rollout of %(version)s took too long, and another may have begun"),
    N_("there is no readable version before %(version)s"),
    N_("version %(version)s is the first, so there is nothing before it"),
    N_("held: %(why)s"),
    N_("%(why)s; the version is kept and can be promoted by hand"),
    N_("it was learned on %(version)s, beside CURRENT: promote it, or merge it into another version"),
    N_("its instant version was rolled back meanwhile; this version is kept and can be promoted by hand"),
    N_("it was evaluated, and nothing was published"),
    N_("it was checked, and nothing was learned"),
    N_("there is nothing to merge: %(why)s"),
    N_("%(one)s and %(other)s cannot be merged: %(why)s"),
    N_("more than one version is the last that both contain"),
    N_("no version that both contain is left"),
    N_("the same version was named twice"),
    N_("%(one)s contains %(other)s already"),
    N_("the class %(name)s of their common ancestor is missing in one of them"),
    N_("one of them has fewer images of a class than their common ancestor"),
    N_("they were learned on different base weights"),
    N_("%(name)s was set to %(value)s by the first task and cannot become %(other)s"),
    N_("CURRENT is not set, so there is nothing to roll back"),
    N_("there is no CURRENT; roll back to a named version"),
    N_("%(store)s has no CURRENT, so there is nothing to teach or to edit"),
    N_("%(file)s holds %(text)s, expected a version id; roll back to a named version"),
    N_("%(file)s cannot be read: %(error)s; roll back to a named version"),
    N_("CURRENT moved to %(version)s, but after %(seconds)s s %(servers)s"),
    N_("no job has the id %(job)s"),
    N_("job %(job)s has %(state)s already"),
    N_("the worker's disk is full; nothing was published"),
    N_("the update needs more memory than the worker has; a smaller batch_size or dpgd_batch_size needs less"),
    N_("the update failed unexpectedly; the worker's log has the details"),
    N_(
        "the update took longer than %(seconds)s s, which is the most that KEEPSIGHT_MAX_JOB_S allows; fewer epochs, "
        "anchors or images take less"
    ),
    N_("the update was begun %(attempts)s times and its process %(why)s; it is not tried again"),
    N_("was ended each time, for example because the machine ran out of memory"),
    N_("gave no sign of life for %(seconds)s s"),
    N_("the images of job %(job)s are no longer in the spool"),
    # the service itself
    N_("the key %(key)s lacks the scope %(scope)s; it has %(scopes)s"),
    N_("a session changes nothing without its own %(header)s, which its pages have; load the page again"),
    N_("this form was not sent from a page of this service; open the page, and send it from there"),
    N_("the broker does not answer the calls that wait for it already"),
    N_("the disk is full: %(what)s was not done"),
    N_("%(what)s waited for another process on this store for more than %(seconds)s s"),
    N_("%(file)s was removed while it was held; nothing was done, try again"),
    N_("%(what)s was not done: %(error)s"),
    N_("nobody can sign in: %(folder)s cannot be written: %(error)s"),
    N_(
        "without API keys, only requests from and to this machine are answered, and %(why)s; create a key with "
        "`keepsight keys create`, and send it"
    ),
    N_("this one comes from a page of another site"),
    N_("this one comes from a page of %(origins)s"),
    N_("this one comes from the page %(pages)s"),
    N_("this one comes from %(address)s"),
    N_("this one was forwarded: it has the header %(header)s"),
    N_("this one asks for the host %(host)s"),
    N_("the API key is unknown or was revoked"),
    N_("the session has ended, or its key was revoked; sign in again"),
)


def in_words_of(language: Language, sentence: str) -> str | None:
    """Return a sentence of the service in a language; None if it is not known there."""
    for form, said in _forms(language.code):
        if found := form.fullmatch(sentence):
            values = found.groupdict()
            if why := values.get(WHY):
                values[WHY] = in_words_of(language, why) or why
            return said % values
    return None


@functools.cache
def _forms(code: str) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((form_of(known), said) for known, said in languages()[code].sentences.items())


def form_of(known: str) -> re.Pattern[str]:
    """Return what matches a sentence, with its values as groups."""
    parts = PLACE.split(known)  # text, name, text, name, …, text
    places = [*(f"(?P<{name}>.+?)" for name in parts[1::2]), ""]
    form = "".join(re.escape(text) + place for text, place in zip(parts[::2], places, strict=True))
    return re.compile(form, re.DOTALL)
