"""CSV files that are odd, and of which every engine makes the same rows: the keys of their source, and their texts."""

CASES = {
    "mark": ({}, "\ufeffid,n\n1,a\n", "\ufeffid,n\n2,b"),
    "repeated": ({}, "id,n\n1,a\nid,n\n2,b\n"),
    "headers": ({}, "id,,n\n1,a,b\n", "id,column1,n\n2,c,d\n"),
    "tabs": ({"delimiter": "\t"}, "id\tn\tm\n1\ta\tb\n\t\t\n2\t\t\n \t \t \n"),
    "bars": ({"delimiter": "|"}, "id|n\n1|a,b\n\n  2| b \n|\n3|"),
    "one": ({}, "id\n1\n\n2\n \nid2\n\n", "id\n\n\n"),
    "headless": ({"header": False}, "1,a\n2,b\n1,a\n", "3,c\n"),
    "returns": ({}, "id,n\r1,a\r2,b\r"),
    "torn": ({}, "id,n,m\n1,a\n2,b,c,d\n3,e,f\n,,\n"),
    "blank": ({}, "id,n\n\n1,a\n  \n2,b\n\n"),
    "first": ({}, "\nid,n\n1,a\n"),
    "empty": ({}, "id,n\n"),
    "quotes": ({}, 'id,n\n1,"a"\n\n2,"b\nc"\n  \n'),
    "quotes in lines": ({}, 'id,"n"\r\n"1","a,b"\r\n2,"c ""d"""\r\n\r\n3,""\r\n,\r\n4,e\r\n', '"id",n\n5,\n'),
    "quotes in lines, torn": ({}, 'id,n\n"1","a,b"\n2\n3,"c","d"\n'),
    "quotes and spaces": ({}, 'id,n\n"1","a,b"\n  \n2,c\n'),
    "a blank, then quotes": ({}, 'id,n\n1, "a"\n "2",b\n3,  "c"\n'),
    "stray quotes": ({}, 'id,n\n1"x,"a\nb",2"\n3,x"y"\n'),
    "stray quotes, refused": ({}, 'id,n\n1,"a" b "c"\n"2" x,2\n3,"d"\t\n4,e\n'),
    "spaces here, quotes there": ({}, "id,n\n1,a\n  \n2,b\n", 'id,n\n"3",c\n'),
    "quotes, then blanks": ({}, 'id,n\n1,"a" \n"2" ,b\n"3"  ,"c,d"  \n'),
    "unquoted": ({"quote": "", "delimiter": "|"}, 'id|5" pipe\n1|"a\n"2"|b""c\n3\n'),
    "quotes of its own": ({"quote": "'"}, "id,n\n1,'a,b'\n2,'it''s'\n"),
    "one, quotes": ({}, 'id\n"1"\n\n2\n\n'),
}


def write(folder):
    """Writes the files into the folder: the name and the source of each case."""
    for n, (name, (keys, *texts)) in enumerate(CASES.items()):
        for i, text in enumerate(texts):
            (folder / f"case{n}-{i}.csv").write_bytes(text.encode())
        yield name, {"format": "csv", "path": f"{folder}/case{n}-*.csv", **keys}
